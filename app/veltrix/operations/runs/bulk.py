"""Cancel, archive and restore of many runs: all that were asked for, or none."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.access.audit import Audited, append
from veltrix.domain.states import OPEN, RunState
from veltrix.operations.runs import action_rows, archive_rows
from veltrix.operations.runs.action_rows import MovedRun
from veltrix.operations.runs.archive_rows import HeldRuns
from veltrix.operations.runs.cancel import tell
from veltrix.operations.runs.query import RunQuery
from veltrix.store.transactions import after_commit, open_autocommit, retry_transient, transaction

IDS_MAX = 1_000
RUNS_MAX = 100_000
_SHOWN_MAX = 100


class BulkAction(StrEnum):
    """What is done to many runs."""

    CANCEL = "cancel"  # open runs: at once, or before their next step where a worker holds them
    ARCHIVE = "archive"  # failed runs: out of the lists, still failed in the books
    RESTORE = "restore"  # archived runs: in the lists again


class BulkRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs: of ids, exactly these; else all that fit. `is_all`: every run there is may be.

    `expected`: so many runs fitted when somebody looked; other ones are not meant.
    """

    action: BulkAction
    wanted: RunQuery = RunQuery()
    is_all: bool = False
    expected: int | None = None
    reason: str
    author: str


class Done(msgspec.Struct, frozen=True):
    """It is done to so many runs; of a cancel, `requested` more end before their next step."""

    action: BulkAction
    runs: int
    requested: int = 0


class NotDone(msgspec.Struct, frozen=True):
    """Nothing was done, and why; `runs` are those that are not as they would have to be."""

    slug: str
    detail: str
    runs: list[HeldRuns] = []


def act(engine: Engine, request: BulkRequest) -> Done | NotDone:
    """Do it to every run that was asked for, in one transaction; or to none, and say why.

    Of a filter only runs are taken that it can be done to, up to 100,000; of ids all, up to 1,000.
    """

    def _once() -> Done | NotDone:
        with transaction(engine) as tx:
            answer, run_ids = _act(tx, request)
            append(tx, [_audited(request, answer, run_ids)])
            return answer

    return retry_transient(_once)


def count(engine: Engine, action: BulkAction, wanted: RunQuery) -> int | NotDone:
    """To how many runs that `wanted` describes it can be done now; why to none, if it cannot."""
    with open_autocommit(engine) as tx:
        found = archive_rows.count_matching(tx, wanted, _STATES[action], RUNS_MAX + 1)
    if found > RUNS_MAX:
        return _TOO_MANY
    return found or _EMPTY


def is_everything(engine: Engine, action: BulkAction, wanted: RunQuery) -> bool:
    """Whether it leaves out none of the runs that it can be done to now: `is_all` must be said."""
    with open_autocommit(engine) as tx:
        return archive_rows.is_everything(tx, wanted, _STATES[action])


def _act(tx: Connection, request: BulkRequest) -> tuple[Done | NotDone, Sequence[str]]:
    wanted = request.wanted
    if wanted.ids is not None:
        held, missing = _hold_ids(tx, wanted.ids)
        wrong = [run for run in held if not _is_fit(request.action, run)]
        if missing:
            return _unknown(missing), wanted.ids
        if wrong:
            return _unfit(request.action, wrong), wanted.ids
        run_ids = [run.id for run in held]
    else:
        if not request.is_all and archive_rows.is_everything(tx, wanted, _STATES[request.action]):
            return _EVERYTHING, []
        run_ids = archive_rows.hold_matching(tx, wanted, _STATES[request.action], RUNS_MAX + 1)
        if len(run_ids) > RUNS_MAX:
            return _TOO_MANY, []
    if not run_ids:
        return _EMPTY, []
    if request.expected is not None and request.expected != len(run_ids):
        return _changed(request.expected, len(run_ids)), []
    return _ACTS[request.action](tx, run_ids, request), run_ids


def _hold_ids(tx: Connection, ids: Sequence[str]) -> tuple[list[HeldRuns], list[str]]:
    """These runs, locked; and the ids of which there is none."""
    known, strange = action_rows.sorted_ids(ids)
    held = archive_rows.hold(tx, known)
    return held, sorted({*known, *strange} - {run.id for run in held})


def _is_fit(action: BulkAction, run: HeldRuns) -> bool:
    match action:
        case BulkAction.CANCEL:
            return run.state in OPEN
        case BulkAction.ARCHIVE:
            return run.state == RunState.FAILED and not run.is_archived
    return run.is_archived


def _cancel(tx: Connection, run_ids: Sequence[str], request: BulkRequest) -> Done:
    moved: list[MovedRun] = action_rows.cancel(
        tx, run_ids, reason=request.reason, author=request.author
    )
    after_commit(tx, lambda: tell(moved, request.author))
    requested = sum(run.state != RunState.CANCELLED for run in moved)
    return Done(request.action, len(moved) - requested, requested)


def _archive(tx: Connection, run_ids: Sequence[str], request: BulkRequest) -> Done:
    moved = archive_rows.archive(tx, run_ids, reason=request.reason, author=request.author)
    return Done(request.action, moved)


def _restore(tx: Connection, run_ids: Sequence[str], request: BulkRequest) -> Done:
    moved = archive_rows.restore(tx, run_ids, reason=request.reason, author=request.author)
    return Done(request.action, moved)


_ACTS: dict[BulkAction, Callable[[Connection, Sequence[str], BulkRequest], Done]] = {
    BulkAction.CANCEL: _cancel,
    BulkAction.ARCHIVE: _archive,
    BulkAction.RESTORE: _restore,
}
_STATES = {
    BulkAction.CANCEL: archive_rows.Eligible.OPEN,
    BulkAction.ARCHIVE: archive_rows.Eligible.FAILED,
    BulkAction.RESTORE: archive_rows.Eligible.ARCHIVED,
}
_RULES = {
    BulkAction.CANCEL: "only an open run can be cancelled",
    BulkAction.ARCHIVE: "only a failed run that is not archived can be archived",
    BulkAction.RESTORE: "only an archived run can be restored",
}
_EMPTY = NotDone(
    "empty-set",
    "no run matches the filter and is in a state for this; nothing was done: look at the filter",
)
_EVERYTHING = NotDone(
    "needs-all",
    "the filter says no more than a state, so it is every run in it; narrow it, or say `all: true`",
)
_TOO_MANY = NotDone(
    "too-many-runs",
    f"more than {RUNS_MAX:,} runs match; nothing was done: narrow the filter, say by `until`",
)


def _changed(expected: int, found: int) -> NotDone:
    return NotDone(
        "count-changed",
        f"{found:,} runs match by now, not {expected:,}; nothing was done: count again",
    )


def _unknown(ids: Sequence[str]) -> NotDone:
    named = ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
    runs = [HeldRuns(id_, None, is_archived=False) for id_ in ids[:_SHOWN_MAX]]
    return NotDone("not-found", f"there is no run {named}; nothing was done", runs)


def _unfit(action: BulkAction, wrong: Sequence[HeldRuns]) -> NotDone:
    first = wrong[0]
    state = f"{first.state}{' and archived' if first.is_archived else ''}"
    others = (
        f", and {len(wrong) - 1:,} others are not in such a state either" if len(wrong) > 1 else ""
    )
    detail = f"run {first.id} is {state}: {_RULES[action]}{others}; nothing was done"
    return NotDone("wrong-state", detail, list(wrong[:_SHOWN_MAX]))


def _audited(request: BulkRequest, answer: Done | NotDone, run_ids: Sequence[str]) -> Audited:
    sent: dict[str, Any] = {"all": request.is_all}
    if request.expected is not None:
        sent["expected"] = request.expected
    ids = request.wanted.ids
    if ids is not None:
        sent["ids"] = list(ids)
    if request.wanted.conditions:
        sent["filter"] = msgspec.to_builtins(request.wanted.conditions)
    known, _ = action_rows.sorted_ids(run_ids) if ids is not None else (list(run_ids), [])
    return Audited(
        author=request.author,
        action=f"run.{request.action}",
        reason=request.reason,
        target="run",
        target_id=ids[0] if ids is not None and len(ids) == 1 else None,
        request=sent,
        run_ids=known,
        result=msgspec.to_builtins(answer),
        is_refused=isinstance(answer, NotDone),
    )
