"""Replay at once: failed runs of a list run again, in their next generation.

`move` is how every replay moves runs; `replay_now` is a whole one that needs no plan.
"""

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.access import audit
from veltrix.access.audit import Audited
from veltrix.domain.ids import Id
from veltrix.domain.states import Reason, ReplayMode
from veltrix.operations.replays import plan_rows
from veltrix.operations.replays.rules import GENERATION_MAX, SPENT
from veltrix.operations.runs.action_rows import (
    FailedRun,
    MovedRun,
    Recorded,
    failed_runs,
    recorded,
    sorted_ids,
    states_of,
)
from veltrix.operations.runs.action_rows import replay as replay_rows
from veltrix.store.transactions import after_commit, retry_transient, transaction
from veltrix.telemetry import logger

log = logger("replay")


class Replayed(msgspec.Struct, frozen=True):
    """The run is queued again, as this generation, with `steps_kept` entries of its journal."""

    run_id: Id
    generation: int
    steps_kept: int


class NotReplayed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The run is in this state; None: there is no such run. `why`: a failed one is not either."""

    run_id: str
    state: str | None
    why: str | None = None


class ReplayedNow(msgspec.Struct, frozen=True):
    """Each run's answer, by id, and the replay that they are; None: none of them was replayed."""

    replay_id: str | None
    answers: list[Replayed | NotReplayed]


def replay(
    engine: Engine, run_ids: Iterable[str], mode: ReplayMode, reason: str, author: str
) -> list[Replayed | NotReplayed]:
    """As `replay_now`: each run's answer, by id."""
    return replay_now(engine, run_ids, mode, reason, author).answers


def replay_now(
    engine: Engine, run_ids: Iterable[str], mode: ReplayMode, reason: str, author: str
) -> ReplayedNow:
    """Every failed run of the list runs again from now; each run's answer, by id.

    `failed_step` keeps the journal up to the step that failed, so that finished steps give their
    recorded output; `beginning` keeps nothing. The journal so far stays as evidence under its
    generation either way. They are a replay of their own, which began at once. Up to 1,000 runs;
    ValueError beyond.
    """
    ids, strange = sorted_ids(run_ids)

    def once() -> ReplayedNow:
        with transaction(engine) as tx:
            failed = failed_runs(tx, ids)
            moved = move(tx, failed, mode, reason=reason, author=author)
            replay_id = (
                plan_rows.insert_begun(tx, mode, moved, author=author, reason=reason)
                if moved
                else None
            )
            states = states_of(tx, ids) if len(moved) < len(ids) else {}
            _audit(tx, [*ids, *strange], moved, mode, replay_id, reason=reason, author=author)
        answers: dict[str, Replayed | NotReplayed] = {
            r.run_id: NotReplayed(r.run_id, states.get(r.run_id), SPENT)
            for r in failed
            if r.generation >= GENERATION_MAX
        }
        answers |= {r.run_id: Replayed(r.run_id, r.generation, r.steps_kept) for r in moved}
        return ReplayedNow(
            replay_id,
            [
                answers.get(id_) or NotReplayed(id_, states.get(id_))
                for id_ in sorted(ids + strange)
            ],
        )

    return retry_transient(once)


def move(
    tx: Connection, runs: Sequence[FailedRun], mode: ReplayMode, *, reason: str, author: str
) -> list[MovedRun]:
    """Those of these runs that still were failed in this generation are queued in the next one.

    One that has no next one stays: see `SPENT`.
    """
    runs = [run for run in runs if run.generation < GENERATION_MAX]
    dropped: dict[str, list[str]] | None = None
    if mode is ReplayMode.FAILED_STEP:
        journals = recorded(tx, runs)
        dropped = {
            run.run_id: repeated(journals[run.run_id], run)
            for run in runs
            if run.run_id in journals
        }
    action = f"replay.{mode}"
    moved = replay_rows(tx, runs, dropped, action=action, reason=reason, author=author)
    after_commit(tx, lambda: _tell(moved, mode, author))
    return moved


def _tell(moved: Sequence[MovedRun], mode: ReplayMode, author: str) -> None:
    for run in moved:
        log.info(
            "run.replayed",
            run_id=run.run_id,
            event_id=run.event_id,
            workflow=run.workflow,
            generation=run.generation,
            mode=mode,
            author=author,
        )


def _audit(
    tx: Connection,
    asked: Sequence[str],
    moved: Sequence[MovedRun],
    mode: ReplayMode,
    replay_id: str | None,
    *,
    reason: str,
    author: str,
) -> None:
    row = Audited(
        author=author,
        action="run.replay",
        reason=reason,
        target="run" if len(asked) == 1 else "replay",
        target_id=asked[0] if len(asked) == 1 else replay_id,
        request={"from": mode, "ids": list(asked)},
        run_ids=[run.run_id for run in moved],
        result={
            "replay": replay_id,
            "replayed": len(moved),
            "not_replayed": len(asked) - len(moved),
        },
        is_refused=not moved,
    )
    audit.append(tx, [row])


def repeated(journal: Sequence[Recorded], run: FailedRun) -> list[str]:
    """The positions that a replay from the failed step runs again: that step and what follows it.

    The failed step is the last error of that name; for a workflow that raised an error of its own,
    the last error it saw. An error before it in the same branch was dealt with and stays recorded;
    one in a branch beside it is run again as well, or the run would fail of it at once.
    """
    errors = [entry for entry in journal if entry.is_error]
    if run.reason == Reason.POISON:
        errors = []  # the step that ended the workers is in no journal; the others were dealt with
    elif run.failed_step is not None:
        errors = [entry for entry in errors if entry.name == run.failed_step]
    elif run.reason != Reason.ERROR:
        errors = []  # a time-out of the run: no step is to blame
    if not errors:
        return []
    last = _path(errors[-1].position)
    cuts = [last] + [
        _path(entry.position)
        for entry in journal
        if entry.is_error and not _is_before(_path(entry.position), last)
    ]
    return [
        entry.position
        for entry in journal
        if any(_is_undone(_path(entry.position), cut) for cut in cuts)
    ]


def _path(position: str) -> tuple[int, ...]:
    return tuple(int(part) for part in position.split("."))


def _fork(a: tuple[int, ...], b: tuple[int, ...]) -> int | None:
    """The index at which two paths part; None: one leads to the other. Odd: two branches there."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)


def _is_before(path: tuple[int, ...], cut: tuple[int, ...]) -> bool:
    fork = _fork(path, cut)
    return fork is not None and fork % 2 == 0 and path[fork] < cut[fork]


def _is_undone(path: tuple[int, ...], cut: tuple[int, ...]) -> bool:
    """Whether `path` is the step at `cut`, contains it, or came after it."""
    fork = _fork(path, cut)
    return fork is None or (fork % 2 == 0 and path[fork] > cut[fork])
