"""Replaying: moves the runs of started replays at their rate, and follows what becomes of them.

Any number of relays do this side by side: who holds a replay's row moves its next list, and moves,
marks and counts are one commit. So a process that dies anywhere leaves each run moved once or not
at all, and the next one goes on from the rows.
"""

from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.access import audit
from veltrix.access.audit import Audited
from veltrix.domain.ids import EventIds
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays import edit, replay_rows
from veltrix.operations.replays.edit import EditOf
from veltrix.operations.replays.move import move
from veltrix.operations.replays.patch import exact
from veltrix.operations.replays.replay_rows import HeldReplay, MovedByReplay, Now, Planned, Skipped
from veltrix.operations.replays.rules import (
    GENERATION_MAX,
    MOVING,
    SPENT,
    ReplayedState,
    ReplayState,
    decide,
    is_moved,
)
from veltrix.operations.runs.action_rows import failed_runs
from veltrix.settings.fields import Settings
from veltrix.store.transactions import (
    after_commit,
    is_away,
    open_autocommit,
    retry_transient,
    transaction,
)
from veltrix.telemetry import logger

LIST_RUNS_MAX = 1_000
REPLAYS_MAX = 50  # looked at in a turn: so many with runs to move, and so many to follow
FOLLOWED_MAX = 1_000
PAUSE_S, PAUSE_NONE_S = 0.2, 1.0  # with replays at work, and without
_FIRST = "00000000-0000-0000-0000-000000000000"

log = logger("replay")


class Mover:
    """The duty of one relay. For one thread."""

    def __init__(self, engine: Engine, settings: Settings, new_ids: EventIds) -> None:
        self._engine, self._settings, self._new_ids = engine, settings, new_ids
        self._looked_to: dict[str, str] = {}  # by replay: up to which run outcomes were looked for
        self._turns = _FIRST, _FIRST  # the last that were looked at: with runs to move, with none
        self._has_open = False

    def once(self) -> int:
        """One list of each replay whose turn it is; how many runs were dealt with.

        0 when there is time to pause.
        """
        with open_autocommit(self._engine) as tx:
            moving, open_ = replay_rows.at_work(tx, *self._turns, REPLAYS_MAX)
        self._turns = _end_of(moving), _end_of(open_)
        self._has_open = bool(moving or open_)
        return sum(map(self._care, [*moving, *open_]))

    @property
    def pause_s(self) -> float:
        """How long to pause when `once` was 0."""
        return PAUSE_S if self._has_open else PAUSE_NONE_S

    def _care(self, replay_id: str) -> int:
        try:
            return retry_transient(partial(self._step, replay_id))
        except Exception as error:
            if is_away(error):
                raise
            # One replay's mistake must not end the others.
            log.exception("replay.failed", replay_id=replay_id)
            return 0

    def _step(self, replay_id: str) -> int:
        with transaction(self._engine) as tx:
            held = replay_rows.hold(tx, replay_id, waits=False)
            if held is None:
                return 0
            settled, has_more = self._follow(tx, held)
            state = held.state
            self._judge(tx, held)
            moved, skipped = self._move(tx, held) if held.state in MOVING else (0, 0)
            if moved or skipped:
                self._judge(tx, held)
            if settled or moved or skipped or held.state != state:
                replay_rows.save(tx, held, moved=moved)
                self._note(tx, held, state)
        is_list_full = moved >= self._list_runs(held) or skipped > 0
        return moved + skipped + settled if is_list_full or (settled and has_more) else 0

    def _follow(self, tx: Connection, held: HeldReplay) -> tuple[int, bool]:
        """Count the outcomes of some replayed runs; how many, and whether there are more to ask."""
        if not held.open:
            return 0, False
        after = self._looked_to.pop(held.id, _FIRST)
        followed = replay_rows.follow(tx, held.id, after, FOLLOWED_MAX)
        has_more = len(followed) == FOLLOWED_MAX
        if has_more:
            self._looked_to[held.id] = followed[-1].run_id
        settled = [run for run in followed if run.state is not None]
        replay_rows.mark_settled(tx, held.id, settled)
        for run in settled:
            match run.state:
                case ReplayedState.SUCCEEDED:
                    held.succeeded += 1
                case ReplayedState.FAILED_AGAIN:
                    held.failed_again += 1
                case _:
                    held.cancelled += 1
        return len(settled), has_more

    def _judge(self, tx: Connection, held: HeldReplay) -> None:
        is_waiting = held.state == ReplayState.CANARY and held.open and held.left
        if is_waiting and is_moved(held.state, held, held.canary_to):
            passed = replay_rows.passed(tx, held, FOLLOWED_MAX)
        else:
            passed = 0
        held.state, why = decide(
            held.state,
            held,
            canary_to=held.canary_to,
            stop_share=held.stop_share,
            since=held.since,
            passed=passed,
        )
        held.why = why or held.why

    def _move(self, tx: Connection, held: HeldReplay) -> tuple[int, int]:
        """Move the next list of the replay; how many runs were moved, and how many skipped."""
        most = min(held.allowed, self._list_runs(held))
        if held.state == ReplayState.CANARY:
            most = min(most, held.canary_to - held.replayed)
        if most <= 0 or not (planned := replay_rows.next_runs(tx, held.id, most)):
            return 0, 0
        now = replay_rows.as_they_are(tx, [run.run_id for run in planned])
        is_edit = held.patch is not None
        reasons = {
            run.run_id: _why_not(run, now.get(run.run_id), is_edit=is_edit) for run in planned
        }
        ready = [(run.run_id, run.generation) for run in planned if not reasons[run.run_id]]
        moved, skipped = (
            self._edit(tx, held, ready) if held.patch else (_again(tx, held, ready), [])
        )
        skipped += [Skipped(run_id, reason) for run_id, reason in reasons.items() if reason]
        replay_rows.mark_moved(tx, held.id, moved)
        replay_rows.mark_skipped(tx, held.id, skipped)
        held.replayed += len(moved)
        held.skipped += len(skipped)
        return len(moved), len(skipped)

    def _edit(
        self, tx: Connection, held: HeldReplay, ready: list[tuple[str, int]]
    ) -> tuple[list[MovedByReplay], list[Skipped]]:
        assert held.patch is not None
        of = EditOf(
            held.id,
            held.started_by or held.author,
            held.start_reason or held.reason,
            self._settings.event_bytes_max,
            self._new_ids,
            self._settings.accounts_max,
        )
        return edit.make(tx, ready, exact(held.patch), of)

    def _list_runs(self, held: HeldReplay) -> int:
        return edit.LIST_RUNS_MAX if held.patch else LIST_RUNS_MAX

    def _note(self, tx: Connection, held: HeldReplay, before: ReplayState) -> None:
        """What the replay did by itself: an audit row for its end or stop, a log line for both."""
        if held.state == before:
            return
        told: dict[str, Any] = {"before": before, "state": held.state, "replayed": held.replayed}
        told |= {name: getattr(held, name) for name in ("succeeded", "failed_again", "skipped")}
        after_commit(tx, partial(log.info, "replay.turned", replay_id=held.id, **told))
        action = {ReplayState.STOPPED: "replay.stop", ReplayState.DONE: "replay.finish"}
        if held.state in action:
            row = Audited(
                author="veltrix",
                action=action[held.state],
                reason=held.why or "every run has an outcome or was skipped",
                target="replay",
                target_id=held.id,
                result=told,
            )
            audit.append(tx, [row])


def _end_of(turn: list[str]) -> str:
    """Where the next turn begins: from the first again when this one was not full."""
    return turn[-1] if len(turn) == REPLAYS_MAX else _FIRST


def _again(tx: Connection, held: HeldReplay, ready: list[tuple[str, int]]) -> list[MovedByReplay]:
    """Replay these, which are failed and locked."""
    failed = failed_runs(tx, [run_id for run_id, _ in ready])
    moved = move(
        tx,
        failed,
        msgspec.convert(held.mode, ReplayMode),
        reason=held.start_reason or held.reason,
        author=held.started_by or held.author,
    )
    return [MovedByReplay(run.run_id, run.generation) for run in moved]


def _why_not(planned: Planned, now: Now | None, *, is_edit: bool) -> str | None:
    """Why this run is not replayed; None: it is as it was when it was planned."""
    if now is None:
        return "the run is gone"
    by = f"; {now.author} did {now.action}" if now.author and now.action else ""
    if now.state != "failed" or now.generation != planned.generation:
        return (
            f"it has changed since the plan: it is {now.state} in generation {now.generation}, not"
            f" failed in {planned.generation}{by}"
        )
    if now.edits > planned.edits:
        return f"it was edited since the plan and ran as another run{by}"
    if now.generation >= GENERATION_MAX and not is_edit:
        return SPENT
    is_archived = now.is_archived and not planned.is_archived
    return f"it was archived since the plan{by}" if is_archived else None
