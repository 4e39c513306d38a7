"""Runs as people read them: one with its whole story, or a page of many.

A page costs the same however long the history is: it is served by the primary key or a partial
index on few rows; where a filter has no index, it looks at `ROWS_MAX` rows and says where to go on.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Table, and_, literal_column, select
from sqlalchemy.sql.selectable import Subquery

from app.domain.groups import UNGROUPED
from app.domain.ids import runs_range
from app.domain.states import OPEN, RunState
from app.store.arrays import TextArray
from app.store.tables import runs

ROWS_MAX = 50_000
ENTRIES_MAX = 1_000
OUTPUT_BYTES_MAX = 8 * 1024 * 1024


class RunRow(msgspec.Struct, kw_only=True):
    """A run without its outcome and steps: a line of a list."""

    id: str
    event: str
    workflow: str
    queue: str
    state: RunState
    key: str | None
    generation: int
    attempt: int
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
    delivery_id: str | None
    origin_run_id: str | None
    parent_run_id: str | None
    alone: bool
    crashes: int
    priority: int
    payload_bytes: int
    archived_at: datetime | None = None


class EventIdentity(msgspec.Struct):
    """The event a run is for, as its producer identifies it. None: its row is gone."""

    source: str | None
    id: str | None
    type: str | None
    subject: str | None
    accepted_at: datetime | None


class Entry(msgspec.Struct):
    """A line of the journal: a step that finished or failed for good, a sleep, or a recorded value.

    `output` is None where the outputs before it are 8 MiB together already; `output_bytes` says so.
    """

    generation: int
    position: str
    kind: str
    name: str
    output: msgspec.Raw | None
    output_bytes: int
    error: msgspec.Raw | None
    attempts: int
    recorded_at: datetime


class Attempt(msgspec.Struct):
    """An attempt that failed; `retry_delay_s` until the next, None if it was the last."""

    generation: int
    position: str
    step: str
    attempt: int
    type: str
    message: str | None
    traceback: str | None
    fingerprint: str
    worker_id: str | None
    retry_delay_s: float | None
    failed_at: datetime


class Action(msgspec.Struct):
    """What somebody did to the run, and why."""

    action: str
    generation: int
    author: str
    reason: str
    acted_at: datetime


class RunStory(RunRow, kw_only=True):
    """A run with all that is known of it: of every generation, the first 1,000 of each list.

    `edited_as`: the runs that edits of this one made.
    """

    cloudevent: EventIdentity
    outcome: msgspec.Raw | None
    steps: list[Entry]
    failed_attempts: list[Attempt]
    actions: list[Action]
    edited_as: list[str]
    redacted: bool = False


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs; None leaves a condition out. `since` <= acceptance < `until`.

    `archived` False: all but the failed runs that were put away; True: only those. `fingerprint`
    UNGROUPED: failed without one.
    """

    state: RunState | None = None
    workflow: str | None = None
    queue: str | None = None
    key: str | None = None
    event: str | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    archived: bool | None = None


class RunPage(msgspec.Struct):
    """Runs, newest first. `next` goes on from here, None: there are no more. It may be short."""

    items: list[RunRow]
    next: str | None


_COLUMNS = tuple(
    runs.c["event_id" if name == "event" else name] for name in RunRow.__struct_fields__
)
_UNSUCCESSFUL = frozenset({RunState.FAILED, RunState.CANCELLED})

_STORY = """
select e.source, e.sender_id, e.type, e.subject, e.accepted_at, r.outcome::text
from runs r left join events e on e.id = r.event_id
where r.id = %(id)s
"""

_ENTRIES = """
select generation, position, kind, name,
    case when sum(bytes) over (order by generation, recorded_at, position) <= %(bytes_max)s
         then output end,
    bytes, error, attempts, recorded_at
from (
    select generation, position, kind, name, output::text,
        coalesce(octet_length(output::text), 0) as bytes, error::text, attempts, recorded_at
    from journal where run_id = %(id)s
    order by generation, recorded_at, position limit %(max)s
) as entries
order by generation, recorded_at, position
"""

_ATTEMPTS = """
select generation, position, step, attempt, type, message, traceback, fingerprint, worker_id,
    retry_delay_s, failed_at
from failed_attempts where run_id = %(id)s order by id limit %(max)s
"""

_ACTIONS = """
select action, generation, author, reason, acted_at
from actions where run_id = %(id)s order by id limit %(max)s
"""

_EDITED_AS = """
select run_id::text from edits where origin_run_id = %(id)s order by edited_at, run_id
limit %(max)s
"""

_SETTLED = """
select id::text from runs where id = any(%(id)s::uuid[]) and settled_at is not null
"""


def story(tx: Connection, run_id: str) -> RunStory | None:
    """The run and its whole story, or None if there is no such run. Needs a snapshot."""
    row = tx.execute(select(*_COLUMNS).where(runs.c.id == run_id)).one_or_none()
    if row is None:
        return None
    *identity, outcome = tx.exec_driver_sql(_STORY, {"id": run_id}).one()
    keys = {"id": run_id, "max": ENTRIES_MAX, "bytes_max": OUTPUT_BYTES_MAX}
    return RunStory(
        **msgspec.structs.asdict(_run_row(row)),
        cloudevent=EventIdentity(*identity),
        outcome=_raw(outcome),
        steps=[_entry(*entry) for entry in tx.exec_driver_sql(_ENTRIES, keys)],
        failed_attempts=[Attempt(*attempt) for attempt in tx.exec_driver_sql(_ATTEMPTS, keys)],
        actions=[Action(*action) for action in tx.exec_driver_sql(_ACTIONS, keys)],
        edited_as=[row[0] for row in tx.exec_driver_sql(_EDITED_AS, keys)],
    )


def redact(run: RunStory) -> None:
    """Take out what payloads said: outputs, errors' messages and tracebacks, and the outcome."""
    run.outcome, run.redacted = None, True
    for entry in run.steps:
        entry.output = entry.error = None
    for attempt in run.failed_attempts:
        attempt.message = attempt.traceback = None


def settled(tx: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of these runs that have an outcome."""
    return {row[0] for row in tx.exec_driver_sql(_SETTLED, {"id": TextArray(run_ids)})}


def page(
    tx: Connection,
    wanted: RunFilter,
    *,
    cursor: str | None = None,
    limit: int = 50,
    rows_max: int = ROWS_MAX,
) -> RunPage:
    """The newest `limit` runs that `wanted` describes, below `cursor` (a run id) if given."""
    bounds = _bounds(wanted, cursor)
    if wanted.archived is None and _is_served(wanted):
        rows = tx.execute(_newest(runs, [*bounds, *_conditions(runs, wanted)], limit)).all()
        is_more = len(rows) == limit
        return RunPage([_run_row(row) for row in rows], str(rows[-1].id) if is_more else None)
    # What an index leads to is looked at in it; the rest of what is wanted is looked for in that.
    if _is_served(wanted):
        bounds += _conditions(runs, msgspec.structs.replace(wanted, archived=None))
    looked_at = _newest(runs, bounds, rows_max).subquery("looked_at")
    rows = tx.execute(_newest(looked_at, _conditions(looked_at, wanted), limit)).all()
    if len(rows) == limit:
        return RunPage([_run_row(row) for row in rows], str(rows[-1].id))
    last = select(runs.c.id).where(*bounds).order_by(runs.c.id.desc()).offset(rows_max - 1).limit(1)
    return RunPage([_run_row(row) for row in rows], tx.execute(last).scalar_one_or_none())


def conditions_of(wanted: RunFilter) -> list[ColumnElement[bool]]:
    """What `wanted` describes, as conditions on the table of runs."""
    return [*_bounds(wanted, None), *_conditions(runs, wanted)]


def _newest(
    table: Table | Subquery, conditions: Sequence[ColumnElement[bool]], limit: int
) -> Select[tuple[object, ...]]:
    columns = [table.c[column.name] for column in _COLUMNS]
    return select(*columns).where(*conditions).order_by(table.c.id.desc()).limit(limit)


def _is_served(wanted: RunFilter) -> bool:
    """Whether an index leads to the runs that match, not past all that do not."""
    is_few = wanted.event is not None or wanted.state in OPEN or wanted.state in _UNSUCCESSFUL
    return (
        is_few
        or wanted.fingerprint == UNGROUPED
        or wanted == RunFilter(since=wanted.since, until=wanted.until, archived=wanted.archived)
    )


def _bounds(wanted: RunFilter, cursor: str | None) -> list[ColumnElement[bool]]:
    """Bounds of the primary key: ids begin with the time of acceptance."""
    bounds: list[ColumnElement[bool]] = []
    if cursor is not None:
        bounds.append(runs.c.id < cursor)
    if wanted.since is not None:
        bounds.append(runs.c.id >= _first_id_at(wanted.since))
    if wanted.until is not None:
        bounds.append(runs.c.id < _first_id_at(wanted.until))
    if wanted.event is not None:
        first, last = runs_range(wanted.event)
        bounds.append(and_(runs.c.id > first, runs.c.id <= last))
    return bounds


def _conditions(table: Table | Subquery, wanted: RunFilter) -> list[ColumnElement[bool]]:
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


def _first_id_at(time: datetime) -> str:
    ms = f"{max(0, round(time.timestamp() * 1000)):012x}"
    return f"{ms[:8]}-{ms[8:]}-0000-0000-000000000000"


def _run_row(row: Sequence[object]) -> RunRow:
    return msgspec.convert(dict(zip(RunRow.__struct_fields__, row, strict=True)), RunRow)


def _entry(
    generation: int,
    position: str,
    kind: str,
    name: str,
    output: str | None,
    output_bytes: int,
    error: str | None,
    attempts: int,
    recorded_at: datetime,
) -> Entry:
    return Entry(
        generation,
        position,
        kind,
        name,
        _raw(output),
        output_bytes,
        _raw(error),
        attempts,
        recorded_at,
    )


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
