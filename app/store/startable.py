"""Events that a workflow could still be started for, and the statement that starts it once.

A run's id follows from its event and its workflow, so whether an event was given to a workflow is
one look at a key, and starting twice is impossible.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from app.store.arrays import TextArray

FIRST_ID = "00000000-0000-0000-0000-000000000000"
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Stretch(msgspec.Struct, frozen=True):
    """Events in the order of their ids: `read` were looked at, `event_ids` lack a run.

    `last_id` is where the next stretch begins; None: there is no next one.
    """

    read: int
    event_ids: list[str]
    last_id: str | None


# Each type costs one probe of the index of unrouted events, however many of it there are. The time
# comes with it: looking costs a round trip less.
_TYPES_UNROUTED = """
with recursive found as (
    (select type from events where unrouted order by type limit 1)
    union all
    select (select e.type from events e where e.unrouted and e.type > found.type
            order by e.type limit 1)
    from found where found.type is not null
)
select now(), array(select type from found where type is not null)
"""

_UNROUTED = """
select id::text, accepted_at from events
where unrouted and type = %(type)s and id >= %(first_id)s::uuid and accepted_at >= %(since)s
order by id limit %(limit)s
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

# The lock on the event and the run's key make it once; `unrouted` is cleared by compare-and-set.
_START = """
with locked as materialized (
    select id, account_id, minute, unrouted,
        coalesce(octet_length(data::text), 0) + coalesce(octet_length(data_binary), 0) as bytes
    from events where id = any(%(event_id)s::uuid[]) order by id for no key update
), started as (
    insert into runs (id, event_id, account_id, minute, payload_bytes, started_at, due_at, state,
        workflow, queue, created_by)
    select (left(id::text, 30) || %(suffix)s)::uuid, id, account_id, minute, bytes, now(), now(),
        'queued', %(workflow)s, %(queue)s, %(created_by)s
    from locked
    on conflict (id) do nothing
    returning event_id
), marked as (
    update events e set unrouted = false
    from locked l join started s on s.event_id = l.id
    where e.id = l.id and l.unrouted
), counted as (
    insert into counter_deltas (account_id, minute, routed, unrouted, started)
    select account_id, minute, count(*) filter (where unrouted), -count(*) filter (where unrouted),
        count(*)
    from locked join started on started.event_id = locked.id group by account_id, minute
)
select count(*) from started
"""


def first_id_at(moment: datetime) -> str:
    """A bound: every event accepted from this moment on has a greater id, every earlier less."""
    ms = f"{max(0, int(moment.timestamp() * 1000)):012x}"
    return f"{ms[:8]}-{ms[8:]}-0000-0000-000000000000"


def types_unrouted(tx: Connection) -> tuple[datetime, list[str]]:
    """The database's time, and every type of which an event is unrouted then."""
    now, types = tx.exec_driver_sql(_TYPES_UNROUTED).one()
    return now, types


def read_unrouted(
    tx: Connection, type_: str, since: datetime, limit: int
) -> list[tuple[str, datetime]]:
    """Unrouted events of a type accepted since then, oldest first, with when."""
    keys = {"type": type_, "since": since, "first_id": first_id_at(since), "limit": limit}
    return [(row[0], row[1]) for row in tx.exec_driver_sql(_UNROUTED, keys)]


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
    """Each event has its run of this workflow afterwards, due now; how many had none before."""
    return int(
        tx.exec_driver_sql(
            _START,
            {
                "event_id": TextArray(sorted(event_ids)),
                "workflow": workflow,
                "queue": queue,
                "suffix": suffix,
                "created_by": created_by,
            },
        ).scalar_one()
    )
