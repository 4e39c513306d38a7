"""The books of what was dropped: how many rows of each account's minute left, with a digest.

A drop notes what leaves in the transaction in which it leaves, so counters = rows + dropped in
every snapshot. Canaries are in no book.

The digest is SHA-256 over the ids that left, 16 bytes each (RFC 9562, section 4: as `uuid_send`
has them): those of events in ascending order, then those of runs in ascending order, with nothing
between or before them. Whoever has the rows can compute it again.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import msgspec
from sqlalchemy import Connection

from veltrix.domain.events import CANARY_ACCOUNT
from veltrix.domain.ids import first_id_at

# What leaves with events and runs; dead letters leave by themselves.
COUNTS = ("accepted", "routed", "unrouted", "started", "succeeded", "failed", "cancelled")
_COLUMNS = ", ".join(COUNTS)
_PAGE_ROWS = 5_000
_EPOCH, _MINUTES_OF_DAY = date(1970, 1, 1), 1_440

_COUNT = f"""
select minute, account_id,
    count(*) filter (where not is_run) as accepted,
    count(*) filter (where not is_run and not unrouted) as routed,
    count(*) filter (where not is_run and unrouted) as unrouted,
    count(*) filter (where is_run) as started,
    count(*) filter (where state = 'succeeded') as succeeded,
    count(*) filter (where state = 'failed') as failed,
    count(*) filter (where state = 'cancelled') as cancelled,
    sha256(string_agg(uuid_send(id), ''::bytea order by is_run, id)) as digest
from (
    select e.id, e.account_id, e.minute, false as is_run, e.unrouted, null::text as state
    from {{events}} e where e.id >= %(first)s::uuid and e.id < %(end)s::uuid
    union all
    select r.id, r.account_id, r.minute, true, null, r.state
    from {{runs}} r where r.id >= %(first)s::uuid and r.id < %(end)s::uuid
) as leaving
where account_id <> {CANARY_ACCOUNT}
group by minute, account_id
"""  # noqa: S608 - a number of ours, and names that our code gives
_NOTE = f"""
with noted as (
    insert into dropped (minute, account_id, drop_id, {_COLUMNS}, digest)
    select minute, account_id, %(drop)s::uuid, {_COLUMNS}, digest from ({_COUNT}) as counted
    returning minute, account_id, {_COLUMNS}, digest
)
select * from noted order by minute, account_id
"""  # noqa: S608 - as _COUNT
_OF_DROP = f"""
select minute, account_id, {_COLUMNS}, digest from dropped
where drop_id = %(drop)s::uuid and minute < %(end)s and digest is not null
    and (minute, account_id) > (%(minute)s, %(account)s)
order by minute, account_id limit {_PAGE_ROWS}
"""  # noqa: S608 - as _COUNT
_DROPS = f"""
select distinct minute / {_MINUTES_OF_DAY}, drop_id::text from dropped
where minute >= %(first)s and digest is not null order by 1, 2
"""  # noqa: S608 - a number of ours


class Relations(msgspec.Struct, frozen=True):
    """Where rows of history stand, each as it is written after `from`.

    A table's name, or a select in brackets, with the columns of the table of that name: what stays
    in a detached day is left out by a select. Never what somebody else gave.
    """

    events: str = "events"
    runs: str = "runs"
    journal: str = "journal"
    failed_attempts: str = "failed_attempts"


class IdBounds(msgspec.Struct, frozen=True):
    """Ids from `first` on, and before `end`."""

    first: str
    end: str


class Dropped(msgspec.Struct, frozen=True):
    """Rows of an account's minute (minutes since 1970) that left together; `digest` see above."""

    minute: int
    account_id: int
    accepted: int
    routed: int
    unrouted: int
    started: int
    succeeded: int
    failed: int
    cancelled: int
    digest: bytes | None


def bounds_of(day: date) -> IdBounds:
    """The ids of a day in UTC."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return IdBounds(first_id_at(begin), first_id_at(begin + timedelta(days=1)))


def note_dropped(
    tx: Connection, relations: Relations, drop_id: str, bounds: IdBounds
) -> list[Dropped]:
    """Add what leaves with this drop to the books: what stands there within `bounds`, in one pass.

    To be called in the transaction in which these rows leave; an event leaves with all of its runs.
    It takes seconds for a million events, so before a lock that others wait for; what is larger
    than a statement's time limit is noted in several calls, each of whole minutes. The rows that
    were added come back by minute and account. Raises an IntegrityError if a run among them is
    open, or if these minutes of the drop are in the books already.
    """
    keys = {"drop": drop_id, "first": bounds.first, "end": bounds.end}
    statement = _NOTE.format(events=relations.events, runs=relations.runs)
    return [Dropped(*row) for row in tx.exec_driver_sql(statement, keys)]


def dropped_by(tx: Connection, drop_id: str, day: date) -> Iterator[Dropped]:
    """Events and runs that left with this drop, of a day, by minute and account, page by page."""
    first = (day - _EPOCH).days * _MINUTES_OF_DAY
    keys: dict[str, object] = {"drop": drop_id, "end": first + _MINUTES_OF_DAY}
    minute, account = first - 1, 2**31 - 1
    while True:
        keys |= {"minute": minute, "account": account}
        rows = [Dropped(*row) for row in tx.exec_driver_sql(_OF_DROP, keys)]
        yield from rows
        if len(rows) < _PAGE_ROWS:
            return
        minute, account = rows[-1].minute, rows[-1].account_id


def drops_since(tx: Connection, day: date) -> list[tuple[date, str]]:
    """Every drop that took events or runs of this day or later, once for each day."""
    keys = {"first": (day - _EPOCH).days * _MINUTES_OF_DAY}
    rows = tx.exec_driver_sql(_DROPS, keys)
    return [(_EPOCH + timedelta(days=number), drop_id) for number, drop_id in rows]
