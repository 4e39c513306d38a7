"""Queues as their open runs and the workers have them: unserved ones, and runs in the wrong one."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.releases.rules import Server
from veltrix.store.arrays import TextArray
from veltrix.store.loads import IS_LIVE, LIVE_LIMITS, PRESENT_S

UNSERVED_COUNTED_MAX = 1_000
_FIRST = ("-infinity", "00000000-0000-0000-0000-000000000000")


class Unserved(msgspec.Struct, frozen=True):
    """A queue with open runs that no present worker serves; `runs` are counted up to 1,000."""

    queue: str
    runs: int
    oldest_started_at: datetime

    @property
    def told(self) -> str:
        """For people."""
        more = " or more" if self.runs == UNSERVED_COUNTED_MAX else ""
        return f"{self.runs:,}{more} open runs, and no worker serves the queue"


class QueuePage(msgspec.Struct, frozen=True):
    """A stretch of a queue's open runs: how many were looked at and moved, and where it ended."""

    read: int
    moved: dict[str, int]
    last: tuple[str, str] | None  # due_at and id; None: there is no more


# One probe of an index per queue with open runs; runs are read only where nobody serves them. A
# child that said goodbye counts as long as one that was killed: its worker may be starting again.
_UNSERVED = """
with recursive found as (
    (select queue from runs where due_at is not null order by queue limit 1)
    union all
    select (select r.queue from runs r where r.due_at is not null and r.queue > found.queue
            order by r.queue limit 1)
    from found where found.queue is not null
), served as (
    select distinct json_object_keys(load -> 'queues') as queue from workers
    where seen_at > now() - %(present_s)s * interval '1 second'
), bare as materialized (
    select queue from found
    where queue is not null and not exists (select from served s where s.queue = found.queue)
)
select b.queue, n.runs, n.oldest from bare b cross join lateral (
    select count(*) as runs, min(started_at) as oldest from (
        select started_at from runs where queue = b.queue and due_at is not null
        order by due_at limit %(max)s
    ) counted
) n
where n.runs > 0 order by b.queue
"""

_SERVERS = f"""
select distinct array(select json_object_keys(w.load -> 'queues') order by 1), r.workflows,
    r.code_versions
from workers w left join releases r on r.id = w.load ->> 'release'
where {IS_LIVE}
"""  # noqa: S608 - put together from constants

_FORMER = """
select distinct queue, workflow from subscriptions where queue = any(%(queue)s)
"""

# What a worker has in hand right now (locked) is left to the next look. A queued run was perhaps
# handed to the old queue: it is due, for who serves the new one to get it, at the end of its hold
# if it was handed over as claimed.
_MOVE = """
with page as materialized (
    select id, due_at, workflow from runs
    where life = 0 and queue = %(queue)s and due_at is not null
        and (due_at, id) > (%(due_at)s::timestamptz, %(id)s::uuid)
    order by due_at, id limit %(limit)s
), movable as materialized (
    select r.id, k.queue, r.state = 'queued' and r.lease_token is null as is_ours from page p
    join unnest(%(workflow)s, %(to)s) as k(workflow, queue) on k.workflow = p.workflow
    join runs r on r.id = p.id
    where r.life = 0 and r.queue = %(queue)s and r.due_at is not null
    order by r.id for no key update of r skip locked
), moved as (
    update runs r set queue = m.queue,
        due_at = case when m.is_ours then now() else r.due_at end,
        hand_overs = case when m.is_ours then 0 else r.hand_overs end
    from movable m where r.life = 0 and r.id = m.id
    returning r.workflow
), last as (
    select due_at::text as due_at, id::text as id from page
    order by page.due_at desc, page.id desc limit 1
)
select (select count(*) from page), (select due_at from last), (select id from last),
    (select coalesce(json_object_agg(workflow, runs), '{}')::text
     from (select workflow, count(*) as runs from moved group by workflow) sums)
"""


def unserved(tx: Connection) -> list[Unserved]:
    """The queues with open runs that no worker serves, by name."""
    keys = {"present_s": PRESENT_S, "max": UNSERVED_COUNTED_MAX}
    return [Unserved(*row) for row in tx.exec_driver_sql(_UNSERVED, keys)]


def servers(tx: Connection) -> list[Server]:
    """Which queues present workers serve, with which versions of their workflows."""
    return [
        Server(
            frozenset(queues),
            None if workflows is None else dict(zip(workflows, versions, strict=True)),
        )
        for queues, workflows, versions in tx.exec_driver_sql(_SERVERS, LIVE_LIMITS)
    ]


def former(tx: Connection, queues: Sequence[str]) -> dict[str, set[str]]:
    """By queue: the workflows of which some version was registered with it."""
    found: dict[str, set[str]] = {}
    for queue, workflow in tx.exec_driver_sql(_FORMER, {"queue": TextArray(list(queues))}):
        found.setdefault(queue, set()).add(workflow)
    return found


def move(
    tx: Connection,
    queue: str,
    wanted: Mapping[str, str],
    *,
    after: tuple[str, str] | None,
    limit: int,
) -> QueuePage:
    """Move open runs of these workflows from the queue to those wanted, one stretch in due order.

    Go on after `last` until that is None.
    """
    due_at, id_ = after or _FIRST
    read, last_due_at, last_id, moved = tx.exec_driver_sql(
        _MOVE,
        {
            "queue": queue,
            "due_at": due_at,
            "id": id_,
            "limit": limit,
            "workflow": TextArray(list(wanted)),
            "to": TextArray(list(wanted.values())),
        },
    ).one()
    is_last = read < limit
    return QueuePage(read, msgspec.json.decode(moved), None if is_last else (last_due_at, last_id))
