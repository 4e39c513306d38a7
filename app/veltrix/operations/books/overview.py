"""What operators see first, besides the books: queues, workers, latency, and the last minutes.

Each read is bounded: by the number of open runs, of worker children, or of the newest runs.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.store.loads import PRESENT_S

NEWEST_RUNS = 1_000
LETTERS_MAX = 1_000
_WORKERS_MAX = 500


class QueueRuns(msgspec.Struct, frozen=True):
    """The open runs of a queue, counted from rows. `is_served`: by a worker that is present."""

    queue: str
    queued: int
    running: int
    waiting: int
    oldest_started_at: datetime
    is_served: bool = True


class WorkerChild(msgspec.Struct, frozen=True):
    """What a worker child last said of itself. Not `is_present`: not heard of for 15 s."""

    id: str
    node: str
    started_at: datetime
    seen_at: datetime
    is_present: bool
    queues: tuple[str, ...]
    claimed_2s: int


class Latency(msgspec.Struct, frozen=True):
    """From acceptance to outcome, of those of the newest runs that are settled and not replayed.

    None where there are none.
    """

    settled: int
    p50_s: float | None
    p99_s: float | None
    since: datetime | None


class Minute(msgspec.Struct, frozen=True):
    """A minute of acceptance (minutes since 1970): accepted events, started runs, settled ones."""

    minute: int
    accepted: int
    started: int
    settled: int


_QUEUES = """
with served as (
    select distinct json_object_keys(load -> 'queues') as queue from workers
    where seen_at > now() - %(present_s)s * interval '1 second'
)
select queue, count(*) filter (where state = 'queued'), count(*) filter (where state = 'running'),
    count(*) filter (where state = 'waiting'), min(started_at),
    exists (select from served where served.queue = runs.queue)
from runs where due_at is not null group by queue order by queue
"""

_WORKERS = """
select id, node, started_at, seen_at, seen_at > now() - %(present_s)s * interval '1 second',
    load::text
from workers where load ->> 'left' is null order by node, id limit %(max)s
"""

_LATENCY = """
with newest as materialized (
    select started_at, settled_at from runs where generation = 0 order by id desc limit %(max)s
), settled as (
    select started_at, extract(epoch from settled_at - started_at)::float8 as took_s
    from newest where settled_at is not null
)
select count(*), percentile_disc(0.5) within group (order by took_s),
    percentile_disc(0.99) within group (order by took_s), min(started_at)
from settled
"""

_MINUTES = """
select minute, sum(accepted)::bigint, sum(started)::bigint,
    sum(succeeded + failed + cancelled)::bigint
from (
    select minute, accepted, started, succeeded, failed, cancelled from counters
    where minute > floor(extract(epoch from now()) / 60)::int - %(minutes)s
    union all
    select minute, accepted, started, succeeded, failed, cancelled from counter_deltas
    where minute > floor(extract(epoch from now()) / 60)::int - %(minutes)s
) as counted
group by minute order by minute
"""

_LETTERS = """
select count(*) from (select from dead_letters where seen_at is null limit %(max)s) as unseen
"""


def queues(tx: Connection) -> list[QueueRuns]:
    """The queues that have open runs, by name."""
    return [QueueRuns(*row) for row in tx.exec_driver_sql(_QUEUES, {"present_s": PRESENT_S})]


def workers(tx: Connection) -> list[WorkerChild]:
    """Worker children heard of in the last minutes, by node; 500 at most."""
    rows = tx.exec_driver_sql(_WORKERS, {"present_s": PRESENT_S, "max": _WORKERS_MAX})
    return [_child(*row) for row in rows]


def latency(tx: Connection, newest: int = NEWEST_RUNS) -> Latency:
    """Of the newest runs, by one stretch of the primary key."""
    return Latency(*tx.exec_driver_sql(_LATENCY, {"max": newest}).one())


def minutes(tx: Connection, count: int) -> list[Minute]:
    """The last `count` minutes of the books that have anything in them, oldest first."""
    return [Minute(*row) for row in tx.exec_driver_sql(_MINUTES, {"minutes": count})]


def unseen_letters(tx: Connection, at_most: int = LETTERS_MAX) -> int:
    """Dead letters nobody has looked at; counted up to `at_most`."""
    return int(tx.exec_driver_sql(_LETTERS, {"max": at_most}).scalar_one())


def _child(
    id_: str, node: str, started_at: datetime, seen_at: datetime, is_present: bool, load: str
) -> WorkerChild:
    served: dict[str, dict[str, int]] = msgspec.json.decode(load).get("queues", {})
    claimed = sum(queue.get("claimed_2s", 0) for queue in served.values())
    return WorkerChild(id_, node, started_at, seen_at, is_present, tuple(sorted(served)), claimed)
