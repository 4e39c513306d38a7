"""Replays by operators: plan one, look at what it would do, start it, pause, resume, abort.

Each is one transaction with its audit row. A refusal changes nothing and leaves an audit row too.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.access import audit
from veltrix.access.audit import Audited
from veltrix.domain.ids import Id
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays import edit, edit_rows, plan_rows, read, replay_rows
from veltrix.operations.replays.edit import EditOf, Refused
from veltrix.operations.replays.forecast import summary_of
from veltrix.operations.replays.patch import Patch, text_of
from veltrix.operations.replays.plan_rows import RUNS_MAX
from veltrix.operations.replays.read import ReplayStory
from veltrix.operations.replays.replay_rows import HeldReplay
from veltrix.operations.replays.rules import (
    ALLOWED,
    Options,
    ReplayRefused,
    ReplayState,
    Verb,
    check_options,
)
from veltrix.operations.runs.action_rows import states_of
from veltrix.operations.runs.archive_rows import Eligible, is_everything
from veltrix.operations.runs.query import RunQuery
from veltrix.releases import subscription_rows
from veltrix.store import loads
from veltrix.store.transactions import retry_transient, transaction
from veltrix.telemetry import logger

EDITED_RUNS_MAX = 10_000
NAMED_MAX = 100  # runs that a refusal names
PAYLOADS_MAX = 20  # in memory at once, each of up to 1 MiB

log = logger("replay")
T = TypeVar("T")


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as it is asked for: which runs, how, by whom and why; `request` as it was sent."""

    wanted: RunQuery
    is_all: bool = False
    options: Options
    author: str
    reason: str
    request: dict[str, Any]


class EditedNow(msgspec.Struct):
    """The run that an edit made, of which event, in which replay, and the run it was made of."""

    id: Id
    origin: Id
    replay: Id
    state: str = "queued"


def plan(engine: Engine, request: PlanRequest, bytes_max: int) -> ReplayStory:
    """A new replay of exactly the runs that are selected now; nothing moves until it is started.

    Raises ReplayRefused when a named run is not failed, the set is empty or everything without
    `is_all`, an option makes no sense, or a payload does not take the patch.
    """

    def once(tx: Connection) -> ReplayStory:
        check_options(request.options)
        options, replay_id, _ = freeze(tx, request)
        if options.patch is not None:
            _check_payloads(tx, replay_id, options.patch, bytes_max)
        seen = plan_rows.foresee(tx, replay_id)
        known, load = subscription_rows.current(tx), loads.current(tx)
        plan_rows.summarise(tx, replay_id, summary_of(seen, options, known, load))
        story = read.find(tx, replay_id)
        assert story is not None
        row = _row(
            request.author,
            "replay.plan",
            request.reason,
            replay_id,
            request.request,
            {"planned": story.planned, "warnings": len(story.warnings)},
            plan_rows.run_ids(tx, replay_id),
        )
        audit.append(tx, [row])
        return story

    return _done(engine, once, request.author, "replay.plan", request.reason, None, request.request)


def act(engine: Engine, replay_id: str, verb: Verb, *, reason: str, author: str) -> ReplayStory:
    """Start, pause, resume or abort a replay; as it is then. Raises ReplayRefused.

    When a pause or an abort returns, nothing of the replay moves any more.
    """
    action = f"replay.{verb}"

    def once(tx: Connection) -> ReplayStory:
        held = replay_rows.hold(tx, replay_id, waits=True)
        if held is None:
            raise no_such_replay(replay_id)
        if held.state not in ALLOWED[verb]:
            states = " or ".join(sorted(ALLOWED[verb]))
            raise ReplayRefused(
                "wrong-state",
                f"replay {replay_id} is {held.state}; {verb} is for one that is {states}",
                state=held.state,
            )
        before = held.state
        _turn(tx, held, verb, reason=reason, author=author)
        result = {"before": before, "state": held.state, "replayed": held.replayed}
        audit.append(tx, [_row(author, action, reason, replay_id, {}, result)])
        story = read.find(tx, replay_id)
        assert story is not None
        return story

    return _done(engine, once, author, action, reason, replay_id, {})


def edit_now(
    engine: Engine,
    run_id: str,
    patch: Patch,
    tag: str | None,
    of: EditOf,
) -> EditedNow:
    """A failed run's payload is changed and runs as a new run, from the beginning, at once.

    `tag` is what `tag_of` said when the caller looked: if anybody acted on the run since then,
    ReplayRefused `precondition-failed`; None: not looked at. Of `of` the replay id is not used.
    """
    request = {"patch": msgspec.json.decode(text_of(patch))}

    def once(tx: Connection) -> EditedNow:
        now = edit_rows.tag_of(tx, run_id, is_locked=True)
        if now is None:
            raise ReplayRefused("not-found", f"there is no run {run_id!r}")
        if tag is not None and tag != tag_text(now):
            raise ReplayRefused(
                "precondition-failed",
                f"run {run_id} is not as you saw it: it is {now[1]} in generation {now[0]}, edited"
                f" {now[2]} times; read it again",
            )
        if now[1] != "failed":
            raise ReplayRefused(
                "wrong-state",
                f"run {run_id} is {now[1]}: only a failed run can be edited",
                state=now[1],
            )
        options = Options(mode=ReplayMode.BEGINNING, rate=1.0, stop_share=None, patch=patch)
        replay_id = plan_rows.insert(
            tx, options, {"ids": [run_id]}, author=of.author, reason=of.reason
        )
        plan_rows.freeze(tx, replay_id, RunQuery(ids=(run_id,)))
        this = msgspec.structs.replace(of, replay_id=replay_id)
        moved, skipped = edit.make(tx, [(run_id, now[0])], patch, this)
        if skipped:
            found = edit_rows.origins(tx, [(run_id, now[0])])
            refused = edit.payloads(found, patch, edit.schemas(tx), of.bytes_max)[1]
            # None of these: PostgreSQL could not store it.
            raise edit_refused(refused or [Refused(run_id, skipped[0].reason)])
        _begin_and_note(tx, replay_id, moved, of)
        new = moved[0].new_run_id or ""
        row = _row(of.author, "run.edit", of.reason, run_id, request, {"run": new}, [run_id, new])
        audit.append(tx, [msgspec.structs.replace(row, target="run")])
        return EditedNow(new, run_id, replay_id)

    return _done(engine, once, of.author, "run.edit", of.reason, run_id, request, target="run")


def tag_text(tag: tuple[int, str, int]) -> str:
    """An entity tag of a run: it changes whenever the run moves, is replayed or edited."""
    generation, state, count = tag
    return f'"{generation}-{state}-{count}"'


def no_such_replay(replay_id: str) -> ReplayRefused:
    """There is none of this id."""
    return ReplayRefused("not-found", f"there is no replay {replay_id!r}")


def edit_refused(refused: Sequence[Refused], others: int = 0) -> ReplayRefused:
    """These payloads cannot be edited like this, and so many others."""
    first = refused[0]
    more = len(refused) - 1 + others
    return ReplayRefused(
        "edit-refused",
        f"run {first.run}: {first.message}"
        + (f"; {more:,} other payloads do not take the edit either" if more else ""),
        runs=[msgspec.to_builtins(one) for one in refused[:NAMED_MAX]],
    )


def _begin_and_note(
    tx: Connection, replay_id: str, moved: Sequence[replay_rows.MovedByReplay], of: EditOf
) -> None:
    """The replay has begun, and these are its runs."""
    replay_rows.mark_moved(tx, replay_id, moved)
    held = replay_rows.hold(tx, replay_id, waits=True)
    assert held is not None
    held.state, held.replayed = ReplayState.RUNNING, len(moved)
    replay_rows.begin(tx, replay_id, author=of.author, reason=of.reason)
    replay_rows.save(tx, held, is_begun=True, changed_by=of.author)


def freeze(tx: Connection, request: PlanRequest) -> tuple[Options, str, int]:
    """A planned replay with its set; how many runs. Raises ReplayRefused."""
    wanted = request.wanted
    if not request.is_all and is_everything(tx, wanted, Eligible.FAILED):
        raise ReplayRefused(
            "needs-all", "this selects every failed run; say `all: true` if that is what you want"
        )
    if wanted.ids is not None and not wanted.ids:
        raise ReplayRefused(
            "empty-set", "ids is empty: name the failed runs that are to be replayed"
        )
    replay_id = plan_rows.insert(
        tx, request.options, request.request, author=request.author, reason=request.reason
    )
    most = RUNS_MAX if request.options.patch is None else EDITED_RUNS_MAX
    count = plan_rows.freeze(tx, replay_id, wanted, most)
    if wanted.ids is not None and count < len(set(wanted.ids)):
        raise _not_failed(tx, wanted.ids, set(plan_rows.run_ids(tx, replay_id)))
    if count == 0:
        raise ReplayRefused(
            "empty-set", "no failed run matches; `GET /v1/runs?state=failed` lists them all"
        )
    if count > most:
        raise ReplayRefused(
            "too-many-runs",
            f"more than {most:,} runs match, the most of one replay: narrow the filter",
        )
    return request.options, replay_id, count


def _not_failed(tx: Connection, ids: Sequence[str], failed: set[str]) -> ReplayRefused:
    wrong = sorted(set(ids) - failed)
    states = states_of(tx, wrong)
    first = wrong[0]
    what = f"run {first} is {states[first]}" if first in states else f"there is no run {first}"
    more = f"; {len(wrong) - 1:,} others are not failed either" if len(wrong) > 1 else ""
    return ReplayRefused(
        "wrong-state" if states else "not-found",
        f"{what}: only failed runs can be replayed{more}",
        runs=[{"id": id_, "state": states.get(id_)} for id_ in wrong[:NAMED_MAX]],
    )


def _check_payloads(tx: Connection, replay_id: str, patch: Patch, bytes_max: int) -> None:
    """Raises ReplayRefused, naming the first runs whose payload does not take the patch."""
    of, refused = edit.schemas(tx), list[Refused]()
    planned = iter(replay_rows.next_runs(tx, replay_id, EDITED_RUNS_MAX))
    while chunk := [(one.run_id, one.generation) for one in islice(planned, PAYLOADS_MAX)]:
        refused += edit.payloads(edit_rows.origins(tx, chunk), patch, of, bytes_max)[1]
        if len(refused) >= NAMED_MAX:
            break
    if refused:
        raise edit_refused(refused)


def _turn(tx: Connection, held: HeldReplay, verb: Verb, *, reason: str, author: str) -> None:
    """Give the replay its next state."""
    begins_as = ReplayState.CANARY if held.canary else ReplayState.RUNNING
    is_begun = verb in {Verb.START, Verb.RESUME}
    match verb:
        case Verb.START:
            held.state = begins_as
            replay_rows.begin(tx, held.id, author=author, reason=reason)
        case Verb.PAUSE:
            held.resumes_as, held.state = held.state, ReplayState.PAUSED
        case Verb.RESUME if held.state == ReplayState.STOPPED:
            # Somebody has mended something: another canary, and a new account of failures.
            held.state, held.canary_to = begins_as, held.replayed + held.canary
            held.judged_succeeded, held.judged_failed_again = held.succeeded, held.failed_again
            held.why = None
        case Verb.RESUME:
            held.state = held.resumes_as or ReplayState.RUNNING
        case Verb.ABORT:
            held.state, held.why = ReplayState.ABORTED, reason
    replay_rows.save(tx, held, is_begun=is_begun, changed_by=author)


def _row(
    author: str,
    action: str,
    reason: str,
    target_id: str | None,
    request: dict[str, Any],
    result: dict[str, Any],
    run_ids: Sequence[str] = (),
) -> Audited:
    return Audited(
        author=author,
        action=action,
        reason=reason,
        target="replay",
        target_id=target_id,
        request=request,
        result=result,
        run_ids=list(run_ids),
    )


def _done(
    engine: Engine,
    once: Callable[[Connection], T],
    author: str,
    action: str,
    reason: str,
    target_id: str | None,
    request: dict[str, Any],
    *,
    target: str = "replay",
) -> T:
    """What `once` returns, committed; a refusal is audited and raised."""

    def committed() -> T:
        with transaction(engine) as tx:
            return once(tx)

    try:
        return retry_transient(committed)
    except ReplayRefused as refusal:
        row = _row(author, action, reason, target_id, request, {"refused": refusal.slug})
        row = msgspec.structs.replace(row, target=target, is_refused=True)
        with transaction(engine) as tx:
            audit.append(tx, [row])
        raise
