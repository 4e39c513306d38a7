"""What a word that somebody typed may mean: an id, or what an event or run is known by.

Ids are looked up. A word is compared with the newest events and runs, a bounded number of each;
nothing else has an index, because the path of an event would pay for it.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection

from app.store.actions import canonical
from app.store.event_reads import EventRow
from app.store.reads import RunRow

NEWEST_MAX = 100_000
FOUND_MAX = 20


class Hits(msgspec.Struct):
    """What was found, newest first. `events_since`, `runs_since`: how far back it was looked."""

    runs: list[RunRow]
    events: list[EventRow]
    accounts: list[tuple[str, str]]
    runs_since: datetime | None = None
    events_since: datetime | None = None


_RUN_COLUMNS = ", ".join(
    "event_id as event" if name == "event" else name for name in RunRow.__struct_fields__
)
_EVENT_COLUMNS = "id as event, source, sender_id as id, type, subject, accepted_at, unrouted"

_RUNS_BY_ID = f"""
select {_RUN_COLUMNS} from runs
where id = %(id)s::uuid or id > %(id)s::uuid and id <= %(last)s::uuid
order by id limit %(max)s
"""  # noqa: S608 - column names of our own

_EVENT_BY_ID = f"select {_EVENT_COLUMNS} from events where id = %(id)s::uuid"  # noqa: S608 - as above

# The last of the newest first, for how far back they reach; then those that match.
_RUNS = f"""
with newest as materialized (
    select {_RUN_COLUMNS} from runs order by id desc limit %(newest)s
)
select (select started_at from newest order by id limit 1), found.*
from (select 1) as one left join (
    select * from newest where key = %(word)s or workflow = %(word)s
    order by id desc limit %(max)s
) as found on true
"""  # noqa: S608 - as above

_EVENTS = f"""
with newest as materialized (
    select {_EVENT_COLUMNS} from events order by id desc limit %(newest)s
)
select (select accepted_at from newest order by event limit 1), found.*
from (select 1) as one left join (
    select * from newest where id = %(word)s or subject = %(word)s
    order by event desc limit %(max)s
) as found on true
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
    runs = tx.exec_driver_sql(_RUNS, keys).all()
    events = tx.exec_driver_sql(_EVENTS, keys).all()
    accounts = tx.exec_driver_sql(_ACCOUNTS, keys).all()
    return Hits(
        runs=[_run(row[1:]) for row in runs if row[1] is not None],
        events=[_event(row[1:]) for row in events if row[1] is not None],
        accounts=[(source, type_) for source, type_ in accounts],
        runs_since=runs[0][0],
        events_since=events[0][0],
    )


def _by_id(tx: Connection, id_: str) -> Hits:
    """Runs of an event have ids right behind the event's own."""
    last = id_[:-6] + "ffffff" if id_.endswith("000000") else id_
    runs = tx.exec_driver_sql(_RUNS_BY_ID, {"id": id_, "last": last, "max": FOUND_MAX})
    events = tx.exec_driver_sql(_EVENT_BY_ID, {"id": id_})
    return Hits([_run(row) for row in runs], [_event(row) for row in events], [])


def _run(row: object) -> RunRow:
    return msgspec.convert(dict(zip(RunRow.__struct_fields__, row, strict=True)), RunRow)  # type: ignore[call-overload]


def _event(row: object) -> EventRow:
    return msgspec.convert(dict(zip(EventRow.__struct_fields__, row, strict=True)), EventRow)  # type: ignore[call-overload]
