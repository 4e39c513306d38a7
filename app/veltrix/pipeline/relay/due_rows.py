"""Due runs: the whole delivery mechanism is the column `due_at`.

Of a queued or running run it says when it is handed over again, of a waiting one when it becomes
queued. Set and compared by the database's clock only.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.due import DueRun
from veltrix.releases.subscription_rows import routes
from veltrix.store import crashes
from veltrix.store.arrays import IntArray, TextArray, UuidArray
from veltrix.store.transactions import fetch, retry_transient

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
RESCUE_RUNS_MAX = 500


class QueueShare(msgspec.Struct, frozen=True):
    """How many due runs of a queue to take, and where its index is worth reading from."""

    queue: str
    runs_max: int
    floor: datetime = LONG_AGO


class Scanned(msgspec.Struct, frozen=True):
    """What a scan took: `runs` are to be published after the commit; nobody else will take them.

    `first_due_at` holds the earliest `due_at` taken per queue, before it was moved; queues where
    nothing was due are not in it. `now` is the database's clock. `rescued` are running runs whose
    lease had expired, `poisoned` those that were failed.
    """

    runs: list[DueRun]
    now: datetime
    first_due_at: dict[str, datetime]
    rescued: list[str]
    poisoned: list[DueRun]


class QueueDepth(msgspec.Struct, frozen=True):
    """What the database knows of a queue: runs handed over and not claimed, and runs due.

    `first_handed` is the earliest `due_at` of the former, `first_due` that of any due row, running
    ones with an expired lease too: they bound the next look from below. `ahead` are those handed
    over and any others, running or waiting, that are due within their hold. Counts end at a limit.
    """

    queue: str
    ahead: int
    handed: int
    first_handed: datetime | None
    due: int
    first_due: datetime | None
    now: datetime

    @property
    def is_quiet(self) -> bool:
        """No run is due or about to be."""
        return self.ahead == 0 and self.first_due is None


# One query per queue with room, all in one round trip; the partial index (queue, due_at) serves
# each from `floor` on (mechanics 15), and one of the leases alone what dead workers had. Only here
# an expired running run becomes queued: its worker is gone, so it travels alone, and dying while
# alone is counted. Only here a waiting run becomes queued. One that was handed over as claimed and
# is due was perhaps begun: that is an attempt, whose past the next claim reads. The hold doubles
# each time a run comes due unclaimed. The commit need not be durable: a lost one is a run handed
# over twice.
_SCAN = """
with fast as (select set_config('synchronous_commit', 'off', true)),
d as (
    select r.* from fast, unnest(%(queue)s, %(runs_max)s, %(floor)s::timestamptz[])
        as k(queue, runs_max, floor)
    cross join lateral (
        select id, due_at, state from runs
        where runs.life = 0 and runs.queue = k.queue and runs.due_at >= k.floor
          and runs.due_at <= now() and runs.state <> 'running'
        order by runs.due_at limit k.runs_max
        for no key update skip locked
    ) r
    union all
    select e.* from (
        select id, due_at, state from runs
        where life = 0 and state = 'running' and due_at <= now() and queue = any(%(rescue)s)
        order by due_at limit %(rescue_max)s
        for no key update skip locked
    ) e
)
update runs r set state = 'queued', lease_token = null,
    attempt = greatest(r.attempt, (r.lease_token is not null)::int),
    due_at = now() + least(%(hold_s)s * 2 ^ least(r.hand_overs, 20), %(hold_s_max)s)
        * interval '1 second',
    hand_overs = least(r.hand_overs + 1, 1000),
    crashes = least(r.crashes + (r.state = 'running' and r.alone)::int, 1000),
    alone = r.alone or r.state = 'running'
from d where r.life = 0 and r.id = d.id
returning r.id::text, r.workflow, r.queue, r.payload_bytes, r.alone, r.crashes, d.state, d.due_at,
    now(), r.cancel_requested_at is not null
"""

# A worker that may have had them was asked, and did not end them: nobody has them now.
_CANCEL = """
with moved as (
    update runs r set state = 'cancelled', life = life_of('cancelled'), due_at = null,
        settled_at = now(), reason = 'requested'
    where life = 0 and id = any(%(id)s::uuid[]) and state = 'queued' and lease_token is null
    returning r.account_id, r.minute
)
insert into counter_deltas (account_id, minute, cancelled)
select account_id, minute, count(*) from moved group by account_id, minute
"""

# The look reads a bounded stretch of the index: rows still queued there were handed over and not
# yet claimed. Sleeping runs lie in the same index, which is why the stretch is bounded in rows as
# well.
_DEPTHS = """
select k.queue, d.ahead, d.handed, d.first_handed, w.due, w.first_due, now()
from unnest(%(queue)s, %(floor)s::timestamptz[], %(due_floor)s::timestamptz[], %(due_max)s)
    as k(queue, floor, due_floor, due_max)
cross join lateral (
    select count(*) as ahead, count(*) filter (where state = 'queued') as handed,
        min(due_at) filter (where state = 'queued') as first_handed
    from (
        select state, due_at from runs
        where runs.life = 0 and runs.queue = k.queue and runs.due_at > now()
          and runs.due_at >= k.floor
          and runs.due_at <= now() + %(hold_s_max)s * interval '1 second'
        order by runs.due_at limit %(rows_max)s
    ) ahead
) d
cross join lateral (
    select count(*) filter (where state <> 'running') as due, min(due_at) as first_due
    from (
        select state, due_at from runs
        where runs.life = 0 and runs.queue = k.queue and runs.due_at >= k.due_floor
          and runs.due_at <= now()
        order by runs.due_at limit k.due_max
    ) behind
) w
"""

# Queues that still have open runs though nobody subscribes any more: one index probe each.
_QUEUES_WITH_OPEN_RUNS = """
with recursive found as (
    (select queue from runs where life = 0 and due_at is not null order by queue limit 1)
    union all
    select (select r.queue from runs r
            where r.life = 0 and r.due_at is not null and r.queue > found.queue
            order by r.queue limit 1)
    from found where found.queue is not null
)
select queue from found where queue is not null
"""

_MAKE_QUEUE_DUE = """
with m as (
    select id from runs where life = 0 and queue = %(queue)s and due_at > now() and state = 'queued'
        and lease_token is null
    order by id for no key update skip locked
)
update runs r set hand_overs = 0,
    due_at = case when %(is_first)s then least(r.started_at, now()) else now() end
from m where r.life = 0 and r.id = m.id
"""

_MAKE_RUNS_DUE = """
with m as (
    select id from runs where life = 0 and id = any(%(id)s::uuid[]) and state = 'queued'
        and (lease_token is null or %(is_refused)s)
    order by id for no key update skip locked
)
update runs r set lease_token = null,
    attempt = greatest(r.attempt, (r.lease_token is not null)::int),
    due_at = least(r.due_at, case when %(is_first)s then r.started_at else now() end
        + interval '1 second'
        * case when %(is_backing_off)s then least(r.hand_overs, 60) else 0 end),
    hand_overs = case when %(is_backing_off)s then r.hand_overs else 0 end
from m where r.life = 0 and r.id = m.id
"""


def scan(
    tx: Connection,
    wanted: Sequence[QueueShare],
    *,
    hold_s: float,
    hold_s_max: float,
    poison_crashes_max: int,
    rescue: Collection[str],
) -> Scanned | None:
    """Take the runs that are due, oldest first per queue, and move their `due_at` ahead.

    Runs of the queues `rescue` whose lease expired are taken whatever else is due, and however much
    their queue has: they had begun. Commit before publishing. Runs that ended `poison_crashes_max`
    workers alone are failed instead, by a second statement: who dies before it leaves runs that
    come due again, as often as they were counted. Those that were told to end are cancelled. None:
    nothing was due.
    """
    rows = fetch(
        tx,
        _SCAN,
        {
            "queue": TextArray([w.queue for w in wanted]),
            "runs_max": IntArray([w.runs_max for w in wanted]),
            "floor": TextArray([w.floor.isoformat() for w in wanted]),
            "rescue": TextArray(list(rescue)),
            "rescue_max": RESCUE_RUNS_MAX,
            "hold_s": hold_s,
            "hold_s_max": hold_s_max,
        },
    )
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: (row[7], row[0]))
    first: dict[str, datetime] = {}
    ended = {row[0] for row in rows if row[9]}
    going_on = [row for row in rows if row[0] not in ended]
    poisoned = [DueRun(*row[:5]) for row in going_on if row[5] >= poison_crashes_max]
    for row in rows:
        if row[6] != "running":
            first[row[2]] = min(row[7], first.get(row[2], row[7]))
    rescued = [row[0] for row in rows if row[6] == "running"]
    # By themselves: with another scan in its place, what this one took would wait for its hold.
    if rescued:
        retry_transient(lambda: crashes.note_vanished(tx, rescued))
    if ended:
        retry_transient(lambda: tx.exec_driver_sql(_CANCEL, {"id": UuidArray(sorted(ended))}))
    if poisoned:
        retry_transient(lambda: crashes.fail_poison(tx, [run.id for run in poisoned]))
    return Scanned(
        runs=[DueRun(*row[:5]) for row in going_on if row[5] < poison_crashes_max],
        now=rows[0][8],
        first_due_at=first,
        rescued=rescued,
        poisoned=poisoned,
    )


def depths(
    tx: Connection,
    queues: Collection[str],
    *,
    floors: Mapping[str, datetime],
    due_floors: Mapping[str, datetime],
    hold_s_max: float,
    rows_max: int,
    due_max: Mapping[str, int],
) -> dict[str, QueueDepth]:
    """By queue: runs handed over and not yet claimed (up to `rows_max`), and due (`due_max` each).

    `floors` and `due_floors`: nothing before them is of interest; both optional per queue.
    """
    rows = fetch(
        tx,
        _DEPTHS,
        {
            "queue": TextArray(list(queues)),
            "floor": TextArray([floors.get(q, LONG_AGO).isoformat() for q in queues]),
            "due_floor": TextArray([due_floors.get(q, LONG_AGO).isoformat() for q in queues]),
            "hold_s_max": hold_s_max,
            "rows_max": rows_max,
            "due_max": IntArray([due_max[q] for q in queues]),
        },
    )
    return {row[0]: QueueDepth(*row) for row in rows}


def queues_subscribed(tx: Connection) -> dict[str, list[str]]:
    """The workflows by queue, by what routes now."""
    found: dict[str, list[str]] = {}
    for route in routes(tx):
        found.setdefault(route.queue, []).append(route.workflow)
    return found


def queues_with_open_runs(tx: Connection) -> list[str]:
    """Every queue that has an open run, subscribed or not."""
    return [row[0] for row in tx.exec_driver_sql(_QUEUES_WITH_OPEN_RUNS)]


def make_due(tx: Connection, queue: str, *, is_first: bool = False) -> int:
    """The queue lost its messages: every queued run of it is due now; how many.

    Not one that was handed over as claimed: a worker may have it, until its hold is over.

    `is_first`: due since it began, so that it goes before what came later. A look that starts at a
    floor may be past that already: it is for who reads the index from its beginning next.
    """
    return tx.exec_driver_sql(_MAKE_QUEUE_DUE, {"queue": queue, "is_first": is_first}).rowcount


def make_runs_due(
    tx: Connection,
    run_ids: Collection[str],
    *,
    is_first: bool = False,
    is_backing_off: bool = False,
    is_refused: bool = True,
) -> int:
    """These runs' messages came to nothing: those still queued are due now; how many.

    `is_refused`: nobody has them. Else nobody knows: one that was handed over as claimed is left.

    `is_first`: as for `make_due`.

    `is_backing_off`: due later the more often they were handed over (a second each), so that a
    message that is dead-lettered at once does not go round and round.
    """
    keys = {
        "id": TextArray(sorted(set(run_ids))),
        "is_first": is_first,
        "is_backing_off": is_backing_off,
        "is_refused": is_refused,
    }
    return tx.exec_driver_sql(_MAKE_RUNS_DUE, keys).rowcount
