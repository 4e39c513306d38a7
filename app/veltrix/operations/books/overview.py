"""What operators see first, besides the books: queues, workers, and the last minutes.

Each read is bounded: by the number of open runs, of worker children, or of minutes.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.events import CANARY_ACCOUNT
from veltrix.store.loads import PRESENT_S

LETTERS_MAX = 1_000
_WORKERS_MAX = 500


class QueueRuns(msgspec.Struct, frozen=True):
    """The open runs of a queue, counted from rows. `is_served`: by a worker that is present.

    `overdue_at`: when the run that is due for longest became due, and nobody has moved it since;
    None: none is due.
    """

    queue: str
    queued: int
    running: int
    waiting: int
    oldest_started_at: datetime
    is_served: bool = True
    overdue_at: datetime | None = None


class ChildRow(msgspec.Struct, frozen=True):
    """What a worker child last said of itself. Not `is_present`: not heard of for 15 s."""

    id: str
    node: str
    started_at: datetime
    seen_at: datetime
    is_present: bool
    queues: tuple[str, ...]
    claimed_2s: int


class Minute(msgspec.Struct, frozen=True):
    """A minute of acceptance (minutes since 1970): accepted events, started runs, settled ones."""

    minute: int
    accepted: int
    started: int
    settled: int


_QUEUES = f"""
with served as (
    select distinct json_object_keys(load -> 'queues') as queue from workers
    where seen_at > now() - %(present_s)s * interval '1 second'
)
select queue, count(*) filter (where state = 'queued'), count(*) filter (where state = 'running'),
    count(*) filter (where state = 'waiting'), min(started_at),
    exists (select from served where served.queue = runs.queue),
    min(due_at) filter (where due_at < now())
from runs where due_at is not null and account_id <> {CANARY_ACCOUNT}
group by queue order by queue
"""  # noqa: S608 - a number of ours

_WORKERS = """
select id, node, started_at, seen_at, seen_at > now() - %(present_s)s * interval '1 second',
    load::text
from workers where load ->> 'left' is null order by node, id limit %(max)s
"""

_MINUTES = f"""
select minute, sum(accepted)::bigint, sum(started)::bigint,
    sum(succeeded + failed + cancelled)::bigint
from (
    select minute, accepted, started, succeeded, failed, cancelled from counters
    where minute > floor(extract(epoch from now()) / 60)::int - %(minutes)s
    union all
    select minute, accepted, started, succeeded, failed, cancelled from counter_deltas
    where account_id <> {CANARY_ACCOUNT}
        and minute > floor(extract(epoch from now()) / 60)::int - %(minutes)s
) as counted
group by minute order by minute
"""  # noqa: S608 - a number of ours

_LETTERS = """
select count(*) from (select from dead_letters where seen_at is null limit %(max)s) as unseen
"""


def queues(tx: Connection) -> list[QueueRuns]:
    """The queues that have open runs, by name."""
    return [QueueRuns(*row) for row in tx.exec_driver_sql(_QUEUES, {"present_s": PRESENT_S})]


def workers(tx: Connection) -> list[ChildRow]:
    """Worker children heard of in the last minutes, by node; 500 at most."""
    rows = tx.exec_driver_sql(_WORKERS, {"present_s": PRESENT_S, "max": _WORKERS_MAX})
    return [_child(*row) for row in rows]


def minutes(tx: Connection, count: int) -> list[Minute]:
    """The last `count` minutes of the books that have anything in them, oldest first."""
    return [Minute(*row) for row in tx.exec_driver_sql(_MINUTES, {"minutes": count})]


def unseen_letters(tx: Connection, at_most: int = LETTERS_MAX) -> int:
    """Dead letters nobody has looked at; counted up to `at_most`."""
    return int(tx.exec_driver_sql(_LETTERS, {"max": at_most}).scalar_one())


def _child(
    id_: str, node: str, started_at: datetime, seen_at: datetime, is_present: bool, load: str
) -> ChildRow:
    served: dict[str, dict[str, int]] = msgspec.json.decode(load).get("queues", {})
    claimed = sum(queue.get("claimed_2s", 0) for queue in served.values())
    return ChildRow(id_, node, started_at, seen_at, is_present, tuple(sorted(served)), claimed)
