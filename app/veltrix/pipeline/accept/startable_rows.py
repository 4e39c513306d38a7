"""Events that a workflow could still be started for, and the statement that starts it once.

A run's id follows from its event and its workflow, so whether an event was given to a workflow is
one look at a key, and starting twice is impossible.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.store.arrays import TextArray

FIRST_ID = "00000000-0000-0000-0000-000000000000"
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Stretch(msgspec.Struct, frozen=True):
    """Events in the order of their ids: `read` were looked at, `event_ids` lack a run.

    `last_id` is where the next stretch begins; None: there is no next one.
    """

    read: int
    event_ids: list[str]
    last_id: str | None


# What was accepted in a span is one range of the key, whatever else is unrouted: the types that
# nobody wants are not walked again and again. Ids begin with the milliseconds of acceptance.
_NOW_SPAN = """
with k as materialized (
    select array(
        select rpad(lpad(to_hex((extract(epoch from now() + s * interval '1 second')
            * 1000)::bigint), 12, '0'), 32, '0')::uuid
        from unnest(array[-%(behind_s)s, %(ahead_s)s]::float8[]) with ordinality as u(s, n)
        order by n) as ends
)
select now(), array(
    select distinct type from events
    where id >= (select ends[1] from k) and id < (select ends[2] from k) and unrouted
)
"""

_TYPES_BETWEEN = """
select distinct type from events
where id >= %(first)s::uuid and id < %(last)s::uuid and unrouted
"""

_UNROUTED = """
select e.id::text, e.type, e.accepted_at
from unnest(%(type)s, %(since)s::timestamptz[]) as k(type, since)
join events e on e.type = k.type and e.unrouted and e.accepted_at >= k.since
    and e.id > %(after)s::uuid and e.id < %(last)s::uuid
order by e.id limit %(limit)s
"""

# The stretch is bounded before it is filtered, so that one call reads so much and no more.
_STRETCH = """
with stretch as materialized (
    select id, type, accepted_at from events
    where id > %(after)s::uuid and id < %(before)s::uuid order by id limit %(limit)s
), missing as (
    select id from stretch s
    where s.accepted_at >= %(since)s
      and (s.type = any(%(exact)s) or exists (
        select from unnest(%(prefixes)s) p where starts_with(s.type,
            p) and length(s.type) > length(p)))
      and not exists (
        select from runs r where r.id = (left(s.id::text, 30) || %(suffix)s)::uuid)
)
select (select count(*) from stretch), (select max(id::text) from stretch),
    array(select id::text from missing order by id)
"""

# Whoever starts a run later than its event holds the event meanwhile, so what the next statement
# sees of its runs is all there is: a key of each life alone would not see one that has ended.
# Events that a replay makes come with their run.
_LOCK = "select id from events where id = any(%(event_id)s::uuid[]) order by id for no key update"
# `unrouted` is cleared by compare-and-set.
_START = """
with locked as materialized (
    select id, account_id, minute, unrouted,
        coalesce(octet_length(data::text), 0) + coalesce(octet_length(data_binary), 0) as bytes
    from events e where id = any(%(event_id)s::uuid[]) and not exists (
        select from runs r where r.id = (left(e.id::text, 30) || %(suffix)s)::uuid
    )
), started as (
    insert into runs (id, event_id, account_id, minute, payload_bytes, started_at, due_at, state,
        workflow, queue, created_by)
    select (left(id::text, 30) || %(suffix)s)::uuid, id, account_id, minute, bytes, now(), now(),
        'queued', %(workflow)s, %(queue)s, %(created_by)s
    from locked
    on conflict do nothing
    returning event_id
), marked as (
    update events e set unrouted = false
    from locked l join started s on s.event_id = l.id
    where e.id = l.id and e.id = any(%(event_id)s::uuid[]) and l.unrouted
), counted as (
    insert into counter_deltas (account_id, minute, routed, unrouted, started)
    select account_id, minute, count(*) filter (where unrouted), -count(*) filter (where unrouted),
        count(*)
    from locked join started on started.event_id = locked.id group by account_id, minute
)
select count(*) from started
"""


def types_unrouted_lately(
    tx: Connection, *, behind_s: float, ahead_s: float
) -> tuple[datetime, list[str]]:
    """The database's time, and the types of unrouted events accepted around it.

    An api's clock may be ahead of the database's: by `ahead_s` at most is looked for.
    """
    spans = {"behind_s": behind_s, "ahead_s": ahead_s}
    now, types = tx.exec_driver_sql(_NOW_SPAN, spans).one()
    return now, types


def types_unrouted(tx: Connection, first: str, last: str) -> list[str]:
    """The types of unrouted events from this id on, up to that one."""
    found = tx.exec_driver_sql(_TYPES_BETWEEN, {"first": first, "last": last})
    return list(found.scalars())


def read_unrouted(
    tx: Connection, since: Mapping[str, datetime], *, after: str, last: str, limit: int
) -> list[tuple[str, str, datetime]]:
    """Unrouted events with ids between these of these types, each accepted since its type's time.

    Oldest first: id, type, and when it was accepted.
    """
    types = sorted(since)
    keys = {
        "type": TextArray(types),
        "since": TextArray([since[type_].isoformat() for type_ in types]),
        "after": after,
        "last": last,
        "limit": limit,
    }
    return [(row[0], row[1], row[2]) for row in tx.exec_driver_sql(_UNROUTED, keys)]


def read_stretch(
    tx: Connection,
    patterns: Collection[str],
    suffix: str,
    *,
    since: datetime,
    after: str,
    before: str = LAST_ID,
    limit: int,
) -> Stretch:
    """The next `limit` events of the ledger; which of them match and lack this workflow's run."""
    read, last_id, event_ids = tx.exec_driver_sql(
        _STRETCH,
        {
            "exact": TextArray([p for p in patterns if not p.endswith(".*")]),
            "prefixes": TextArray([p[:-1] for p in patterns if p.endswith(".*")]),
            "suffix": suffix,
            "since": since,
            "after": after,
            "before": before,
            "limit": limit,
        },
    ).one()
    return Stretch(read, event_ids, last_id if read == limit else None)


def start(
    tx: Connection,
    event_ids: Sequence[str],
    workflow: str,
    queue: str,
    suffix: str,
    created_by: str | None = None,
) -> int:
    """Each event has its run of this workflow afterwards, due now; how many had none before.

    Needs a transaction that reads what others committed, not AUTOCOMMIT.
    """
    keys = {
        "event_id": TextArray(sorted(event_ids)),
        "workflow": workflow,
        "queue": queue,
        "suffix": suffix,
        "created_by": created_by,
    }
    tx.exec_driver_sql(_LOCK, keys)
    return int(tx.exec_driver_sql(_START, keys).scalar_one())
