"""What a word that somebody typed may mean: an id, or what an event or run is known by.

Ids are looked up. A word is compared with the newest events and runs, a bounded number of each;
nothing else has an index, because the path of an event would pay for it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, bindparam, column, select, text
from sqlalchemy.types import NullType

from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read import (
    COLUMN_OF,
    RunPage,
    RunRow,
    column_conditions,
    count_attempts,
)
from veltrix.operations.runs.read_events import EventFilter, EventRow, page
from veltrix.store.arrays import TextArray
from veltrix.store.tables import runs

NEWEST_MAX = 50_000
FOUND_MAX = 20


class Hits(msgspec.Struct):
    """What was found, newest first. `_since`: how far back it was looked; None: to the first."""

    runs: list[RunRow]
    events: list[EventRow]
    accounts: list[tuple[str, str]]
    runs_since: datetime | None = None
    events_since: datetime | None = None


_RUN_COLUMNS = ", ".join(
    f"{COLUMN_OF[name]} as {name}" if name in COLUMN_OF else name
    for name in RunRow.__struct_fields__
)
_EVENT_COLUMNS = "id as event, source, sender_id as id, type, subject, accepted_at, unrouted"

_RUNS_BY_ID = f"""
select {_RUN_COLUMNS} from runs
where id = %(id)s::uuid or id > %(id)s::uuid and id <= %(last)s::uuid
order by id limit %(max)s
"""  # noqa: S608 - column names of our own

_EVENT_BY_ID = f"select {_EVENT_COLUMNS} from events where id = %(id)s::uuid"  # noqa: S608 - as above

_RUNS = f"""
select * from (
    select {_RUN_COLUMNS} from runs order by id desc limit %(newest)s
) as newest
where key = %(word)s or workflow = %(word)s order by id desc limit %(max)s
"""  # noqa: S608 - as above

_EVENTS = f"""
select * from (
    select {_EVENT_COLUMNS} from events order by events.id desc limit %(newest)s
) as newest
where id = %(word)s or subject = %(word)s order by event desc limit %(max)s
"""  # noqa: S608 - as above

# How far back the newest reach; nothing where these are all.
_SINCE = """
select (select started_at from runs order by id desc offset %(newest)s limit 1),
    (select accepted_at from events order by id desc offset %(newest)s limit 1)
"""

# Runs have ids right behind that of their event.
_RUNS_OF_EVENTS = f"""
select {_RUN_COLUMNS}
from unnest(cast(:event as uuid[])) as e(event)
cross join lateral (
    select * from runs
    where runs.id > e.event
        and runs.id <= cast(left(cast(e.event as text), 30) || 'ffffff' as uuid)
    order by id limit 1000  -- a look at the key for each event, not a walk along all runs
) as r
"""  # noqa: S608 - as above

_ACCOUNTS = """
(select source, type from accounts where source = %(word)s order by type limit %(max)s)
union all
(select source, type from accounts where type = %(word)s and source <> %(word)s
 order by source limit %(max)s)
"""


def look_up(tx: Connection, word: str) -> Hits:
    """Whatever `word` names: the id of a run or an event, or what one is known by."""
    id_ = canonical(word)
    if id_ is not None:
        return _by_id(tx, id_)
    keys = {"word": word, "newest": NEWEST_MAX, "max": FOUND_MAX}
    found = tx.exec_driver_sql(_RUNS, keys).all()
    events = tx.exec_driver_sql(_EVENTS, keys).all()
    accounts = tx.exec_driver_sql(_ACCOUNTS, keys).all()
    runs_since, events_since = tx.exec_driver_sql(_SINCE, keys).one()
    return Hits(
        runs=_runs(tx, found),
        events=[_event(row) for row in events],
        accounts=[(source, type_) for source, type_ in accounts],
        runs_since=runs_since,
        events_since=events_since,
    )


def runs_of_events(
    tx: Connection,
    events: EventFilter,
    wanted: RunQuery,
    *,
    cursor: str | None = None,
    limit: int = 50,
) -> RunPage:
    """The runs that `wanted` describes of the newest `limit` events that `events` does.

    A page may be short, and may be a little longer where an event has several runs.
    """
    found = page(tx, events, cursor=cursor, limit=limit)
    if not found.items:
        return RunPage([], found.next)
    ids = bindparam("event", TextArray([event.event for event in found.items]), type_=NullType())
    names = RunRow.__struct_fields__
    typed = [column(name, runs.c[COLUMN_OF.get(name, name)].type) for name in names]
    theirs = text(_RUNS_OF_EVENTS).bindparams(ids).columns(*typed).subquery("theirs")
    fit = select(theirs).where(*column_conditions(theirs, wanted)).order_by(theirs.c.id.desc())
    return RunPage(_runs(tx, tx.execute(fit)), found.next)


def _by_id(tx: Connection, id_: str) -> Hits:
    """Runs of an event have ids right behind the event's own."""
    last = id_[:-6] + "ffffff" if id_.endswith("000000") else id_
    found = tx.exec_driver_sql(_RUNS_BY_ID, {"id": id_, "last": last, "max": FOUND_MAX})
    events = tx.exec_driver_sql(_EVENT_BY_ID, {"id": id_})
    return Hits(_runs(tx, found), [_event(row) for row in events], [])


def _runs(tx: Connection, rows: Iterable[Sequence[Any]]) -> list[RunRow]:
    names = RunRow.__struct_fields__
    found = [msgspec.convert(_texts(names, row), RunRow) for row in rows]
    count_attempts(tx, found)
    return found


def _event(row: Sequence[Any]) -> EventRow:
    return msgspec.convert(_texts(EventRow.__struct_fields__, row), EventRow)


def _texts(names: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """By name, with ids as texts."""
    return {
        name: str(value) if isinstance(value, UUID) else value
        for name, value in zip(names, row, strict=True)
    }
