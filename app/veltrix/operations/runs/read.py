"""Runs as people read them: lines of lists.

A page costs the same however long the history is: it is served by the primary key or a partial
index on few rows; where a filter has no index, it looks at `ROWS_MAX` rows and says where to go on.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    any_,
    bindparam,
    cast,
    literal_column,
    select,
)
from sqlalchemy.sql.selectable import Subquery
from sqlalchemy.types import NullType

from veltrix.domain.events import CANARY_ACCOUNT, CANARY_WORKFLOW
from veltrix.domain.failure_groups import UNGROUPED
from veltrix.domain.ids import Id, first_id_at, runs_range
from veltrix.domain.states import OPEN, RunState
from veltrix.operations.runs.query import RunQuery
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.tables import runs

ROWS_MAX = 50_000


class RunRow(msgspec.Struct, kw_only=True):
    """A run without its outcome and steps: a line of a list.

    `attempt` is which of the workflow's own code: 1, and one more for each that failed and was, or
    will be, tried again; 0 before the first. `claims`: how often a worker took the run, which it
    does for each pause and back-off too. Both are of this generation.
    """

    id: Id
    event: Id
    workflow: str
    queue: str
    state: RunState
    key: str | None
    generation: int
    attempt: int
    claims: int
    code_version: str | None
    reason: str | None
    failed_step: str | None
    fingerprint: str | None
    started_at: datetime
    due_at: datetime | None
    claimed_at: datetime | None
    settled_at: datetime | None
    cancel_requested_at: datetime | None
    created_by: str | None
    worker_id: str | None
    delivery_id: Id | None
    origin_run_id: Id | None
    parent_run_id: Id | None
    alone: bool
    crashes: int
    priority: int
    payload_bytes: int
    archived_at: datetime | None = None


class RunPage(msgspec.Struct):
    """Runs, newest first. `next` goes on from here, None: there are no more. It may be short."""

    items: list[RunRow]
    next: str | None


# The column of a field, where it has another name: what old code calls an attempt is a claim.
COLUMN_OF = {"event": "event_id", "claims": "attempt"}
_COLUMNS = tuple(runs.c[COLUMN_OF.get(name, name)].label(name) for name in RunRow.__struct_fields__)
_UNSUCCESSFUL = frozenset({RunState.FAILED, RunState.CANCELLED})

# Those of the workflow's own code that were not the last.
_TRIED_AGAIN = """
select k.id, f.times from unnest(%(id)s, %(generation)s) as k(id, generation)
cross join lateral (
    select count(*) as times from failed_attempts f
    where f.run_id = k.id::uuid and f.generation = k.generation
        and f.position = '' and f.retry_delay_s is not null
) f
"""

_SETTLED = """
select id::text from runs where id = any(%(id)s::uuid[]) and settled_at is not null
"""


def run_row(tx: Connection, run_id: str) -> RunRow | None:
    """The run, or None if there is no such run."""
    rows = tx.execute(select(*_COLUMNS).where(runs.c.id == run_id)).all()
    return next(iter(_run_rows(tx, rows)), None)


def count_attempts(tx: Connection, found: Sequence[RunRow]) -> None:
    """Set `attempt` of these rows, of which `claims` is known."""
    for run in found:
        run.attempt = min(run.claims, 1)
    asked = [r for r in found if r.claims > 1 or (r.claims == 1 and r.state != RunState.SUCCEEDED)]
    if not asked:
        return
    keys = {
        "id": TextArray([run.id for run in asked]),
        "generation": IntArray([run.generation for run in asked]),
    }
    by_id = {run.id: run for run in asked}
    for run_id, times in tx.exec_driver_sql(_TRIED_AGAIN, keys):
        by_id[run_id].attempt += times


def settled(tx: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of these runs that have an outcome."""
    return {row[0] for row in tx.exec_driver_sql(_SETTLED, {"id": TextArray(run_ids)})}


def page(
    tx: Connection,
    wanted: RunQuery,
    *,
    cursor: str | None = None,
    limit: int = 50,
    rows_max: int = ROWS_MAX,
) -> RunPage:
    """The newest `limit` runs that `wanted` describes, below `cursor` (a run id) if given."""
    bounds = _bounds(wanted, cursor)
    if wanted.archived is None and _is_served(wanted):
        rows = tx.execute(_newest(runs, [*bounds, *column_conditions(runs, wanted)], limit)).all()
        is_more = len(rows) == limit
        return RunPage(_run_rows(tx, rows), str(rows[-1].id) if is_more else None)
    # What an index leads to is looked at in it; the rest of what is wanted is looked for in that.
    if _is_served(wanted):
        bounds += column_conditions(runs, msgspec.structs.replace(wanted, archived=None))
    looked_at = _newest(runs, bounds, rows_max).subquery("looked_at")
    rows = tx.execute(_newest(looked_at, column_conditions(looked_at, wanted), limit)).all()
    if len(rows) == limit:
        return RunPage(_run_rows(tx, rows), str(rows[-1].id))
    last = select(runs.c.id).where(*bounds).order_by(runs.c.id.desc()).offset(rows_max - 1).limit(1)
    return RunPage(_run_rows(tx, rows), tx.execute(last).scalar_one_or_none())


def conditions_of(wanted: RunQuery) -> list[ColumnElement[bool]]:
    """What `wanted` describes, as conditions on the table of runs."""
    return [*_bounds(wanted, None), *column_conditions(runs, wanted)]


def _newest(
    table: Table | Subquery, conditions: Sequence[ColumnElement[bool]], limit: int
) -> Select[tuple[object, ...]]:
    columns = [
        table.c[name if isinstance(table, Subquery) else COLUMN_OF.get(name, name)].label(name)
        for name in RunRow.__struct_fields__
    ]
    return select(*columns).where(*conditions).order_by(table.c.id.desc()).limit(limit)


def _is_served(wanted: RunQuery) -> bool:
    """Whether an index leads to the runs that match, not past all that do not."""
    is_few = wanted.event is not None or wanted.state in OPEN or wanted.state in _UNSUCCESSFUL
    return (
        is_few
        or wanted.ids is not None
        or wanted.fingerprint == UNGROUPED
        or wanted == RunQuery(since=wanted.since, until=wanted.until, archived=wanted.archived)
    )


def _bounds(wanted: RunQuery, cursor: str | None) -> list[ColumnElement[bool]]:
    """What the primary key leads to: ids begin with the time of acceptance."""
    bounds: list[ColumnElement[bool]] = []
    if cursor is not None:
        bounds.append(runs.c.id < cursor)
    if wanted.since is not None:
        bounds.append(runs.c.id >= first_id_at(wanted.since))
    if wanted.until is not None:
        bounds.append(runs.c.id < first_id_at(wanted.until))
    if wanted.event is not None:
        first, last = runs_range(wanted.event)
        bounds.append(and_(runs.c.id > first, runs.c.id <= last))
    if wanted.event is None and wanted.ids is None and wanted.workflow != CANARY_WORKFLOW:
        bounds.append(runs.c.account_id != CANARY_ACCOUNT)
    if wanted.ids is not None:
        ids = bindparam(None, TextArray(wanted.ids), type_=NullType())
        bounds.append(runs.c.id == any_(cast(ids, ARRAY(runs.c.id.type))))
    return bounds


def column_conditions(table: Table | Subquery, wanted: RunQuery) -> list[ColumnElement[bool]]:
    """What `wanted` says of columns that are named as in a list: all but ids, event and times."""
    conditions: list[ColumnElement[bool]] = [
        table.c[name] == value
        for name in ("workflow", "queue", "key")
        if (value := getattr(wanted, name)) is not None
    ]
    # States as literals, so that the planner sees that a partial index covers the question.
    if wanted.fingerprint == UNGROUPED:
        is_failed = table.c.state == literal_column(f"'{RunState.FAILED.value}'")
        conditions += [table.c.fingerprint.is_(None), is_failed]
    elif wanted.fingerprint is not None:
        conditions.append(table.c.fingerprint == wanted.fingerprint)
    if wanted.state is not None:
        conditions.append(table.c.state == literal_column(f"'{wanted.state.value}'"))
        if wanted.state in OPEN:
            conditions.append(table.c.due_at.is_not(None))
    if wanted.archived is not None:
        is_put_away = table.c.archived_at.is_not(None)
        conditions.append(is_put_away if wanted.archived else ~is_put_away)
    return conditions


def _run_rows(tx: Connection, rows: Sequence[Sequence[object]]) -> list[RunRow]:
    names = RunRow.__struct_fields__
    found = [msgspec.convert(dict(zip(names, row, strict=True)), RunRow) for row in rows]
    count_attempts(tx, found)
    return found
