"""Replays as people read them: one with what was foreseen, its runs, or a page of many."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import Id
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.rules import ReplayedState, ReplayState

ERRORS_MAX = 50


class ErrorCount(msgspec.Struct):
    """Runs of the set that failed with one error; `run` is one of them."""

    fingerprint: str | None
    workflow: str
    failed_step: str | None
    reason: str | None
    count: int
    run: Id


class Warned(msgspec.Struct, omit_defaults=True):
    """Something to know before the start. `kind` is stable; `runs` of the set it is true of."""

    kind: str
    message: str
    runs: int
    workflow: str | None = None
    step: str | None = None


class Summary(msgspec.Struct):
    """What a plan foresees, as of when it was made.

    `by_error` has the 50 most frequent. `steps_journalled`: finished entries in the journals of
    `runs_journalled` of the runs. `predicted_s`: by the rate, or by what workers can do.
    """

    by_workflow: dict[str, int]
    by_error: list[ErrorCount]
    by_age: dict[str, int]
    runs_journalled: int
    steps_journalled: int
    warnings: list[Warned]
    predicted_s: float


class ReplayRow(msgspec.Struct, kw_only=True, rename={"mode": "from"}):
    """A replay without what was foreseen: a line of a list.

    planned = left + skipped + replayed; replayed = succeeded + failed_again + cancelled + open.
    """

    id: Id
    state: ReplayState
    why: str | None
    mode: ReplayMode
    rate: float
    canary: int
    stop_share: float | None
    is_edit: bool
    planned: int
    replayed: int
    succeeded: int
    failed_again: int
    cancelled: int
    skipped: int
    author: str
    reason: str
    planned_at: datetime
    started_by: str | None
    started_at: datetime | None
    changed_by: str | None
    changed_at: datetime
    ended_at: datetime | None


class ReplayStory(ReplayRow, kw_only=True, omit_defaults=True):
    """A replay with what its plan foresaw. `count`: the runs it was planned for.

    `asked` and `patch` may hold parts of payloads: None without the right to see them.
    """

    count: int
    by_workflow: dict[str, int]
    by_error: list[ErrorCount]
    by_age: dict[str, int]
    runs_journalled: int
    steps_journalled: int
    warnings: list[Warned]
    predicted_s: float
    asked: msgspec.Raw | None = None
    patch: msgspec.Raw | None = None


class ReplayPage(msgspec.Struct):
    """Replays, newest first. `next` goes on from here, None: there are no more."""

    items: list[ReplayRow]
    next: str | None


class ReplayedRun(msgspec.Struct):
    """One run of a replay: what became of it there, and what it is now.

    `generation` is what it was when planned, `moved_generation` what it was replayed as. Of an
    edited one `new_run` is the run that was made, and `run_state` is its state.
    """

    run: Id
    workflow: str | None
    generation: int
    state: ReplayedState
    skip_reason: str | None
    moved_generation: int | None
    new_run: Id | None
    moved_at: datetime | None
    settled_at: datetime | None
    run_state: str | None
    run_reason: str | None


class ReplayedRunsPage(msgspec.Struct):
    """Runs of a replay, in the order in which they have their turn."""

    items: list[ReplayedRun]
    next: str | None


_ROW = """id::text, state, why, mode, rate, canary, stop_share, patch is not null, planned,
    replayed, succeeded, failed_again, cancelled, skipped, author, reason, planned_at, started_by,
    started_at, changed_by, changed_at, ended_at"""

_ONE = f"""
select {_ROW}, summary::text, asked::text, patch::text from replays where id = %(id)s
"""  # noqa: S608 - put together from constants

_PAGE = f"""
select {_ROW} from replays
where (%(cursor)s::uuid is null or id < %(cursor)s::uuid)
    and (%(state)s::text is null or state = %(state)s::text)
order by id desc limit %(limit)s
"""  # noqa: S608 - put together from constants

_RUNS = """
select k.run_id::text, r.workflow, k.generation, k.state, k.skip_reason, k.moved_generation,
    k.new_run_id::text, k.moved_at, k.settled_at, r.state, r.reason
from (
    select * from replay_runs
    where replay_id = %(id)s and (%(cursor)s::uuid is null or run_id > %(cursor)s::uuid)
        and (%(state)s::text is null or state = %(state)s::text)
    order by run_id limit %(limit)s
) k left join runs r on r.id = coalesce(k.new_run_id, k.run_id)
order by k.run_id
"""

_EMPTY = Summary({}, [], {}, 0, 0, [], 0.0)


def find(tx: Connection, replay_id: str) -> ReplayStory | None:
    """The replay with what its plan foresaw, or None if there is none."""
    row = tx.exec_driver_sql(_ONE, {"id": replay_id}).one_or_none()
    if row is None:
        return None
    *columns, summary, asked, patch = row
    foreseen = _EMPTY if summary is None else msgspec.json.decode(summary, type=Summary)
    known = msgspec.structs.asdict(_replay_row(columns))
    return ReplayStory(
        **known,
        **{name: getattr(foreseen, name) for name in Summary.__struct_fields__},
        count=known["planned"],
        asked=_raw(asked),
        patch=_raw(patch),
    )


def page(
    tx: Connection, *, state: ReplayState | None = None, cursor: str | None = None, limit: int = 50
) -> ReplayPage:
    """The newest `limit` replays, below `cursor` (a replay's id) if given."""
    keys = {"state": state, "cursor": cursor, "limit": limit}
    rows = [_replay_row(row) for row in tx.exec_driver_sql(_PAGE, keys)]
    return ReplayPage(rows, rows[-1].id if len(rows) == limit else None)


def runs(
    tx: Connection,
    replay_id: str,
    *,
    state: ReplayedState | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> ReplayedRunsPage:
    """`limit` runs of the replay, beyond `cursor` (a run's id) if given."""
    keys = {"id": replay_id, "state": state, "cursor": cursor, "limit": limit}
    rows = [
        msgspec.convert(dict(zip(ReplayedRun.__struct_fields__, row, strict=True)), ReplayedRun)
        for row in tx.exec_driver_sql(_RUNS, keys)
    ]
    return ReplayedRunsPage(rows, rows[-1].run if len(rows) == limit else None)


def _replay_row(row: Sequence[Any]) -> ReplayRow:
    # Not by `convert`, which would look for the name that JSON has.
    fields = dict(zip(ReplayRow.__struct_fields__, row, strict=True))
    return ReplayRow(**fields | {"state": ReplayState(fields["state"])})


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
