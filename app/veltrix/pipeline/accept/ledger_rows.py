"""The ledger: accepted events, their identities, and the runs they start.

`insert` is one statement and one commit for a whole list. It is sorted by identity, so two lists
with the same identities never deadlock (measured: unsorted ones do).
"""

import re
from collections.abc import Iterable, Sequence

import msgspec
import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.domain.events import CANARY_ACCOUNT, CANARY_SOURCE, NewEvent
from veltrix.domain.ids import minute_of, runs_range
from veltrix.pipeline.accept.receipts import StartedRun
from veltrix.store.arrays import BoolArray, BytesArray, IntArray, TextArray, UuidArray
from veltrix.store.transactions import fetch

UNKNOWN_ACCOUNT = 0  # of what tells neither source nor type
OVERFLOW_ACCOUNT = -1  # of every source and type that came when there were as many as there may be
DRAWS_MAX = 10  # so often an id is drawn again before a list is told to come again
# Each part of the tables has a key of its own.
_IS_DRAWN_KEY = re.compile(r"(events|runs)(_\w+)?_pkey").fullmatch


class RunStart(msgspec.Struct, gc=False):
    """A run to insert with its event. `delay_s` > 0 makes it waiting until then.

    `is_hinted`: it is handed over at once. `is_handed`: as claimed, under the token of its list.
    """

    id: str
    workflow: str
    queue: str
    key: str | None = None
    delay_s: float = 0.0
    is_hinted: bool = False
    is_handed: bool = False
    created_by: str | None = None
    parent_run_id: str | None = None
    origin_run_id: str | None = None
    priority: int = 0


class EventInsert(msgspec.Struct, gc=False):
    """An event with the id it gets if it is new, its account, and the runs it starts."""

    event_id: str
    account_id: int
    event: NewEvent
    runs: list[RunStart]

    @property
    def identity(self) -> tuple[str, str]:
        """What makes it the same event: (source, sender's id)."""
        return self.event.source, self.event.id


class KnownEvent(msgspec.Struct, gc=False):
    """An event already in the ledger."""

    event_id: str
    digest: bytes
    runs: list[StartedRun]


# A hinted run is handed over at once by its api, so it is due again only after the hold; any other
# is due now, and the due scan hands it over when its queue has room.
RUNS = """
    insert into runs (id, event_id, account_id, minute, payload_bytes, hand_overs, priority,
        started_at, due_at, lease_token, origin_run_id, parent_run_id, state, workflow, queue, key,
        created_by)
    select r.id, r.event_id, r.account_id, %(minute)s, r.payload_bytes, r.hinted::int, r.priority,
        to_timestamp(%(unix_ms)s / 1000.0),
        now() + case when r.hinted then %(hold_s)s else r.delay_ms / 1000.0
            end * interval '1 second',
        case when r.handed then %(token)s::uuid end, r.origin_run_id, r.parent_run_id,
        case when r.delay_ms > 0 then 'waiting' else 'queued' end, r.workflow, r.queue, r.key,
        r.created_by
    from unnest(
        %(run_id)s::uuid[], %(run_event_id)s::uuid[], %(run_account_id)s::int[], %(payload_bytes)s,
        %(hinted)s, %(handed)s, %(priority)s, %(delay_ms)s, %(origin)s::uuid[], %(parent)s::uuid[],
        %(workflow)s, %(queue)s, %(key)s, %(created_by)s
    ) as r(id, event_id, account_id, payload_bytes, hinted, handed, priority, delay_ms,
           origin_run_id, parent_run_id, workflow, queue, key, created_by)"""
_INSERT = f"""
with input as materialized (
    select * from unnest(
        %(event_id)s::uuid[], %(account_id)s::int[], %(source)s, %(sender_id)s, %(type)s,
        %(subject)s, %(time)s, %(datacontenttype)s, %(dataschema)s, %(data)s::json[],
        %(data_binary)s, %(extensions)s::json[], %(traceparent)s, %(digest)s, %(runs)s
    ) as t(event_id, account_id, source, sender_id, type, subject, time, datacontenttype,
        dataschema,
           data, data_binary, extensions, traceparent, digest, runs)
), fresh as (
    insert into identities (source, sender_id, digest, event_id)
    select source, sender_id, digest, event_id from input
    on conflict do nothing
    returning event_id
), stored as (
    insert into events (id, account_id, minute, unrouted, accepted_at, source, sender_id, type,
        subject, time, datacontenttype, dataschema, data, data_binary, extensions, traceparent,
        digest)
    select event_id, account_id, %(minute)s, runs = 0, to_timestamp(%(unix_ms)s / 1000.0), source,
        sender_id, type, subject, time, datacontenttype, dataschema, data, data_binary, extensions,
        traceparent, digest
    from input join fresh using (event_id)
), started as ({RUNS}
    join fresh using (event_id)
), counted as (
    insert into counter_deltas (account_id, minute, accepted, routed, unrouted, started)
    select account_id, %(minute)s, count(*), count(*) filter (where runs > 0),
        count(*) filter (where runs = 0), sum(runs)
    from input join fresh using (event_id)
    group by account_id
)
select event_id::text from fresh
"""  # noqa: S608 - put together from constants

_KNOWN = """
select i.source, i.sender_id, i.event_id::text, i.digest
from identities i join unnest(%(source)s, %(sender_id)s) as k(source, sender_id)
  on i.source = k.source and i.sender_id = k.sender_id
"""

# Lateral, and kept so by its offset: joined, a range of nobody knows what was planned as a look at
# each run there is, in the order of their ids.
_RUNS_OF = """
select r.id::text, r.workflow, k.event_id::text
from unnest(%(first)s::uuid[], %(last)s::uuid[]) as k(event_id, last)
cross join lateral (
    select id, workflow from runs x where x.id > k.event_id and x.id <= k.last offset 0
) r
order by r.id
"""

# Ids have few gaps, so that the greatest one says at once that there is room.
_ACCOUNTS = """
with k as materialized (
    select * from unnest(%(source)s, %(type)s) as t(source, type) order by source, type
), room as materialized (
    select case
        when coalesce((select max(id) from accounts), 0) + (select count(*) from k)
            <= %(accounts_max)s then (select count(*) from k)
        else greatest(0, %(accounts_max)s - (select count(*) from accounts))
    end as accounts
), new as (
    insert into accounts (source, type)
    select source, type from k
    where not exists (select from accounts a where a.source = k.source and a.type = k.type)
    order by source, type limit (select accounts from room)
    on conflict do nothing
    returning source, type, id
)
select source, type, id from new
union all
select a.source, a.type, a.id from accounts a join k on a.source = k.source and a.type = k.type
union all
select null, null, (select accounts from room) - (select count(*) from new)
"""

_UNIX_S = "select extract(epoch from clock_timestamp())::float8"

_COUNT_BESIDE = """
insert into counter_deltas (account_id, minute, duplicates, refused)
select account_id, floor(extract(epoch from now()) / 60)::int, duplicates, refused
from unnest(%(account_id)s::int[], %(duplicates)s, %(refused)s) as t(account_id, duplicates,
    refused)
"""


def insert(
    tx: Connection,
    items: Sequence[EventInsert],
    unix_ms: int,
    hold_s: float,
    token: str | None = None,
) -> set[str]:
    """The event ids that are new and now durable, with their runs and their counts.

    `items` must be unique by identity and sorted by it, with ids of the minute of `unix_ms`. An
    item whose identity is known is left out of the answer and changes nothing. `token` is of the
    runs that are handed over as claimed.
    """
    fresh = fetch(tx, _INSERT, values_of(items, unix_ms, hold_s, token))
    return {row[0] for row in fresh}


def values_of(
    items: Sequence[EventInsert], unix_ms: int, hold_s: float, token: str | None
) -> dict[str, object]:
    """These events and their runs, as the statements that insert them want them."""
    rows = [(item, run) for item in items for run in item.runs]
    return {
        "unix_ms": unix_ms,
        "minute": minute_of(items[0].event_id),
        "hold_s": hold_s,
        "token": token,
        "event_id": UuidArray([i.event_id for i in items]),
        "account_id": IntArray([i.account_id for i in items]),
        "source": TextArray([i.event.source for i in items]),
        "sender_id": TextArray([i.event.id for i in items]),
        "type": TextArray([i.event.type for i in items]),
        "subject": TextArray([i.event.subject for i in items]),
        "time": TextArray([i.event.time for i in items]),
        "datacontenttype": TextArray([i.event.datacontenttype for i in items]),
        "dataschema": TextArray([i.event.dataschema for i in items]),
        "data": TextArray([i.event.data_json for i in items]),
        "data_binary": BytesArray([i.event.data_binary for i in items]),
        "extensions": TextArray([i.event.extensions for i in items]),
        "traceparent": TextArray([i.event.traceparent for i in items]),
        "digest": BytesArray([i.event.digest for i in items]),
        "runs": IntArray([len(i.runs) for i in items]),
        "run_id": UuidArray([r.id for _, r in rows]),
        "run_event_id": UuidArray([i.event_id for i, _ in rows]),
        "run_account_id": IntArray([i.account_id for i, _ in rows]),
        "payload_bytes": IntArray([i.event.payload_bytes for i, _ in rows]),
        "hinted": BoolArray([r.is_hinted for _, r in rows]),
        "handed": BoolArray([r.is_handed for _, r in rows]),
        "priority": IntArray([r.priority for _, r in rows]),
        "delay_ms": IntArray([round(r.delay_s * 1000) for _, r in rows]),
        "origin": UuidArray([r.origin_run_id for _, r in rows]),
        "parent": UuidArray([r.parent_run_id for _, r in rows]),
        "workflow": TextArray([r.workflow for _, r in rows]),
        "queue": TextArray([r.queue for _, r in rows]),
        "key": TextArray([r.key for _, r in rows]),
        "created_by": TextArray([r.created_by for _, r in rows]),
    }


def is_id_taken(error: BaseException) -> bool:
    """An id that we drew is another event's or run's: nothing is wrong with this one; draw again.

    An id has 50 random bits beside its millisecond, so two meet now and then.
    """
    original = error.orig if isinstance(error, DBAPIError) else error
    return (
        isinstance(original, psycopg.errors.UniqueViolation)
        and _IS_DRAWN_KEY(original.diag.constraint_name or "") is not None
    )


def known(
    tx: Connection, identities: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], KnownEvent]:
    """The events of these identities that are in the ledger, with every run they started."""
    found = tx.exec_driver_sql(
        _KNOWN,
        {
            "source": TextArray([source for source, _ in identities]),
            "sender_id": TextArray([sender_id for _, sender_id in identities]),
        },
    ).all()
    runs = runs_of(tx, [row[2] for row in found])
    return {
        (row[0], row[1]): KnownEvent(row[2], bytes(row[3]), runs.get(row[2], [])) for row in found
    }


def runs_of(tx: Connection, event_ids: Sequence[str]) -> dict[str, list[StartedRun]]:
    """Runs by event: one range of the primary key each."""
    ranges = [runs_range(event_id) for event_id in event_ids]
    runs: dict[str, list[StartedRun]] = {}
    for run_id, workflow, event_id in tx.exec_driver_sql(
        _RUNS_OF,
        {"first": UuidArray([r[0] for r in ranges]), "last": UuidArray([r[1] for r in ranges])},
    ):
        runs.setdefault(event_id, []).append(StartedRun(run_id, workflow))
    return runs


def accounts(
    tx: Connection, pairs: Iterable[tuple[str, str]], accounts_max: int
) -> dict[tuple[str, str], int]:
    """The account id of each (source, type), made if new. Commit it before it is cached.

    When there are `accounts_max` of them, it is OVERFLOW_ACCOUNT for each new one. All canaries
    have one that is in no book.
    """
    wanted = set(pairs)
    ids = dict.fromkeys((pair for pair in wanted if pair[0] == CANARY_SOURCE), CANARY_ACCOUNT)
    missing = wanted - ids.keys()
    while missing:  # a second look finds what another process inserted meanwhile
        keys = sorted(missing)
        *found, (_, _, room) = tx.exec_driver_sql(
            _ACCOUNTS,
            {
                "source": TextArray([k[0] for k in keys]),
                "type": TextArray([k[1] for k in keys]),
                "accounts_max": accounts_max,
            },
        ).all()
        ids |= {(source, type_): id_ for source, type_, id_ in found}
        missing -= ids.keys()
        if room <= 0:
            return ids | dict.fromkeys(missing, OVERFLOW_ACCOUNT)
    return ids


def unix_s(tx: Connection) -> float:
    """The database's clock: seconds since 1970."""
    return float(tx.exec_driver_sql(_UNIX_S).scalar_one())


def count_beside(tx: Connection, counts: Sequence[tuple[int, int, int]]) -> None:
    """Count (account, duplicates, refused) beside the books; account 0 is "not known"."""
    tx.exec_driver_sql(
        _COUNT_BESIDE,
        {
            "account_id": IntArray([c[0] for c in counts]),
            "duplicates": IntArray([c[1] for c in counts]),
            "refused": IntArray([c[2] for c in counts]),
        },
    )
