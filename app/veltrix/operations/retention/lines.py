"""Lines: what is kept of events and runs when their contents are gone; and identities after them.

A line has about 100 bytes. It says that the event was, what became of each run, and the digest by
which a receipt can still be checked. With its line an event's identity can be forgotten, too: from
then on the same event is a new one.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection

from veltrix.domain.ids import first_id_at, first_id_of_minute, runs_range
from veltrix.operations.retention.drop_rows import DropRow
from veltrix.operations.retention.rules import DAY_S, PolicyMap

IDENTITIES_KEPT = timedelta(days=30)  # beyond the content
PAGE_EVENTS = 1_000

_NEW = "ledger_lines_new"
_MAKE = f"""
drop table if exists {_NEW};
create table {_NEW} (like ledger_lines including all)
"""
_ADD = """
insert into {new}
select e.id, r.id, e.account_id, e.sender_id, e.accepted_at, r.workflow, r.state, r.settled_at,
    e.digest
from {events} e left join lateral (
    select * from {runs} x where x.id > e.id
        and x.id <= (left(e.id::text, 30) || 'ffffff')::uuid offset 0
) r on true
where e.id >= %(first)s::uuid and e.id < %(end)s::uuid
"""
_HAS_PART = "select to_regclass(%(part)s) is not null"
# Events that were dropped, in the order of their ids.
_PAGE = """
select array_agg(id::text order by id) from (
    select distinct event_id as id from ledger_lines
    where event_id > %(after)s::uuid and event_id < %(end)s::uuid order by 1 limit %(limit)s
) as page
"""
_FORGET = """
delete from identities i using (
    select distinct l.event_id, a.source, l.sender_id from ledger_lines l
    join accounts a on a.id = l.account_id
    where l.event_id >= %(first)s::uuid and l.event_id <= %(last)s::uuid
) gone
where i.source = gone.source and i.sender_id = gone.sender_id and i.event_id = gone.event_id
"""
_FORGETTABLE = """
select id::text, first_id::text, end_id::text from retention_drops
where state = 'freed' and identities_forgotten_at is null and began_at < now() - %(kept)s::interval
order by first_id limit 1
"""
_FORGOTTEN = "update retention_drops set identities_forgotten_at = now() where id = %(id)s::uuid"
_OLD_LINES = """
select p.part::text from parts_of('ledger_lines'::regclass) p
where p.high <= %(before)s::uuid and not exists (
    select from retention_drops d where d.first_id < p.high and d.end_id > p.low
        and (d.state <> 'freed' or d.identities_forgotten_at is null))
"""


def write(tx: Connection, drop: DropRow, slices: list[tuple[int, int]]) -> int:
    """The lines of what leaves with this drop are in a table of their own; how many. Autocommit."""
    relations = drop.leaving()
    tx.execution_options(no_parameters=True).exec_driver_sql(_MAKE)
    statement = _ADD.format(new=_NEW, events=relations.events, runs=relations.runs)
    return sum(
        tx.exec_driver_sql(
            statement, {"first": first_id_of_minute(minute), "end": first_id_of_minute(end)}
        ).rowcount
        for minute, end in slices
    )


def place(tx: Connection, drop: DropRow) -> None:
    """What was written is among the lines, in one transaction with whatever else is in it."""
    part = f"ledger_lines_{drop.name}"
    if tx.exec_driver_sql(_HAS_PART, {"part": part}).scalar_one():
        tx.exec_driver_sql(f"insert into {part} select * from {_NEW}")  # noqa: S608 - names of ours
        tx.exec_driver_sql(f"drop table {_NEW}")
        return
    tx.exec_driver_sql(f"alter table {_NEW} rename to {part}")
    tx.exec_driver_sql(
        f"alter table ledger_lines attach partition {part} for values from ({drop.low})"
        f" to ('{drop.end_id}')"
    )


def forget_identities(tx: Connection) -> int:
    """Forget who sent what in the oldest drop that is over for long enough; how many. Autocommit.

    In lists, and once more from the beginning if it is ended on the way. 0: there was nothing.
    """
    found = tx.exec_driver_sql(_FORGETTABLE, {"kept": IDENTITIES_KEPT}).one_or_none()
    if found is None:
        return 0
    drop_id, after, end = found
    forgotten = 0
    while page := tx.exec_driver_sql(
        _PAGE, {"after": after, "end": end, "limit": PAGE_EVENTS}
    ).scalar_one():
        after = page[-1]
        keys = {"first": page[0], "last": runs_range(after)[1]}
        forgotten += tx.exec_driver_sql(_FORGET, keys).rowcount
    tx.exec_driver_sql(_FORGOTTEN, {"id": drop_id})
    return forgotten


def drop_old(tx: Connection, policies: PolicyMap, now: datetime) -> list[str]:
    """Drop lines that are older than every policy keeps any; the names of their tables."""
    kept = [one.lines_s for one in policies.values()]
    if not kept or None in kept:
        return []
    longest = max(seconds for seconds in kept if seconds is not None)
    before = first_id_at(now - timedelta(seconds=max(longest, DAY_S)))
    gone = list(tx.exec_driver_sql(_OLD_LINES, {"before": before}).scalars())
    for part in gone:
        tx.exec_driver_sql(f"drop table {part}")
    return gone
