"""What policies would let go: counted day by day, before anything leaves.

A ledger of millions is read in parts of some 200,000 rows, each by a statement of its own; a page
of the plan ends after `days_max` days or about `rows_max` rows, and the next one goes on from
there. Only days are read that are over for longer than the shortest policy. No snapshot is held, so
a run that is settled or replayed meanwhile may be counted as it was or as it is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.domain.ids import first_id_of_minute, minute_of
from veltrix.operations.retention import leaving_rows
from veltrix.operations.retention.leaving_rows import JudgedCounts
from veltrix.operations.retention.policies import check_all, read
from veltrix.operations.retention.rules import (
    DAY_S,
    PolicyMap,
    RetentionPolicy,
    by_subject,
    shortest_s,
)
from veltrix.store.transactions import open_autocommit

DAYS_MAX = 31
ROWS_MAX = 1_000_000  # of a page: some seconds
PART_ROWS = 200_000  # of a statement
MINUTES_OF_DAY = DAY_S // 60


class StayingCounts(msgspec.Struct, frozen=True):
    """Events that stay, by why; see `rules.Stays`."""

    open: int
    failed: int
    astray: int
    unrouted: int
    policy: int
    never: int
    young: int
    unsealed: int


class RetentionDay(msgspec.Struct, frozen=True):
    """A day (UTC) of the ledger; where a page began or ended within a day, that part of it.

    `events` = `leaving` + those that `stay`; `runs` are theirs, by how they ended. `bytes` is an
    estimate: what an event with all that belongs to it takes on average, times `leaving`.
    """

    since: datetime
    until: datetime
    events: int
    runs: int
    succeeded: int
    failed: int
    cancelled: int
    leaving: int
    leaving_runs: int
    bytes: int
    stay: StayingCounts

    def with_rest(self, rest: "RetentionDay") -> "RetentionDay":
        """This part of a day and the one behind it, as one."""
        stay = msgspec.structs.asdict(self.stay)
        more = msgspec.structs.asdict(rest.stay)
        numbers = msgspec.structs.asdict(rest)
        added = {
            name: value + numbers[name]
            for name, value in msgspec.structs.asdict(self).items()
            if isinstance(value, int)
        }
        together = StayingCounts(**{name: count + more[name] for name, count in stay.items()})
        return RetentionDay(since=self.since, until=rest.until, stay=together, **added)


class RetentionPlan(msgspec.Struct, frozen=True):
    """A page of days, the oldest first. `next` goes on from here, None: there are no more.

    `policies` are those it was counted under. `young_since`: what was accepted from then on is too
    young for each of them, and is in no day; None: they let nothing go.
    """

    as_of: datetime
    policies: list[RetentionPolicy]
    young_since: datetime | None
    days: list[RetentionDay]
    next: str | None


_NOW = "select now()"
_NEXT = "select id::text from events where id >= %(first)s::uuid order by id limit 1"
_BY_MINUTE = """
select minute, sum(accepted + started)::bigint from counters
where minute >= %(minute)s and minute < %(end_minute)s group by minute order by minute
"""
# A table that is neither partitioned nor a partition is in no tree.
_SIZE = """
select coalesce(sum(pg_total_relation_size(coalesce(t.relid, n.name::regclass))), 0)::bigint,
    coalesce(sum(greatest(c.reltuples, 0)) filter (where n.name = 'events'), 0)::bigint,
    (select coalesce(sum(accepted), 0)::bigint from (
        select accepted from counter_totals
        union all select accepted from counters where not is_sealed
    ) as counted)
from unnest(array['events', 'runs', 'journal', 'failed_attempts']) as n(name)
left join lateral pg_partition_tree(n.name::regclass) as t on true
left join pg_class c on c.oid = coalesce(t.relid, n.name::regclass)
where coalesce(t.isleaf, true)
"""


def plan(
    engine: Engine,
    proposed: Sequence[RetentionPolicy] = (),
    *,
    cursor: int | None = None,
    days_max: int = DAYS_MAX,
    rows_max: int = ROWS_MAX,
) -> RetentionPlan:
    """What the policies in force, with the `proposed` ones instead of theirs, would let go.

    `cursor` is the `next` of the page before. Raises PolicyRefused for a policy that cannot be.
    """
    with open_autocommit(engine) as tx:
        check_all(tx, proposed)
        now: datetime = tx.exec_driver_sql(_NOW).scalar_one()
        policies = by_subject([*(_plain(one) for one in read(tx)), *proposed])
        shortest, days, read_rows = shortest_s(policies), list[RetentionDay](), 0
        end = 0 if shortest is None else _end(now, shortest)
        size = _bytes_of_event(tx)
        until = cursor or 0
        minute = _next(tx, until, end)
        while minute is not None and len(days) < days_max and read_rows < rows_max:
            since = max(minute - minute % MINUTES_OF_DAY, until)
            until, found = _day(tx, policies, now, since, rows_max - read_rows)
            days.append(_summed(since, until, found, size))
            read_rows += days[-1].events + days[-1].runs
            minute = _next(tx, until, end)
    return RetentionPlan(
        as_of=now,
        policies=sorted(policies.values(), key=lambda one: (one.workflow, one.outcome)),
        young_since=None if shortest is None else _moment(end),
        days=days,
        next=None if minute is None else str(until),
    )


def _plain(policy: RetentionPolicy) -> RetentionPolicy:
    return RetentionPolicy(policy.workflow, policy.outcome, policy.content_s, policy.lines_s)


def _end(now: datetime, shortest: int) -> int:
    """The minute that the first day begins with in which everything is too young."""
    return int(now.timestamp() - shortest) // DAY_S * MINUTES_OF_DAY


def _next(tx: Connection, minute: int, end: int) -> int | None:
    """The minute of the first event from `minute` on; None: there is none before `end`."""
    if minute >= end:
        return None
    first = {"first": first_id_of_minute(minute)}
    found = tx.exec_driver_sql(_NEXT, first).scalar_one_or_none()
    there = end if found is None else minute_of(found)
    return there if there < end else None


def _day(
    tx: Connection, policies: PolicyMap, now: datetime, since: int, rows_max: int
) -> tuple[int, list[JudgedCounts]]:
    """Up to which minute it was read, and what is in it: the rest of its day, or `rows_max`."""
    end = since - since % MINUTES_OF_DAY + MINUTES_OF_DAY
    found: list[JudgedCounts] = []
    for begin, stop in _parts(tx, since, end):
        found += leaving_rows.counts(tx, policies, now, begin, stop)
        if sum(one.events + one.runs for one in found) >= rows_max:
            return stop, found
    return end, found


def _parts(tx: Connection, since: int, end: int) -> Iterator[tuple[int, int]]:
    """The minutes between the two in parts of about PART_ROWS rows, as the counters have them."""
    begin, rows = since, 0
    for minute, more in tx.exec_driver_sql(_BY_MINUTE, {"minute": since, "end_minute": end}):
        if rows and rows + more > PART_ROWS:
            yield begin, minute
            begin, rows = minute, 0
        rows += more
    yield begin, end


def _bytes_of_event(tx: Connection) -> float:
    """What an event takes on average, with its runs and their journals."""
    total, there, accepted = tx.exec_driver_sql(_SIZE).one()
    size: float = total / max(1, there or accepted)
    return size


def _summed(since: int, until: int, found: Sequence[JudgedCounts], size: float) -> RetentionDay:
    stay: Counter[str] = Counter()
    for one in found:
        if one.stays is not None:
            stay[one.stays.value] += one.events
    leaving = [one for one in found if one.stays is None]
    events = sum(one.events for one in leaving)
    return RetentionDay(
        since=_moment(since),
        until=_moment(until),
        events=sum(one.events for one in found),
        runs=sum(one.runs for one in found),
        succeeded=sum(one.succeeded for one in found),
        failed=sum(one.failed for one in found),
        cancelled=sum(one.cancelled for one in found),
        leaving=events,
        leaving_runs=sum(one.runs for one in leaving),
        bytes=round(events * size),
        stay=StayingCounts(**{name: stay[name] for name in StayingCounts.__struct_fields__}),
    )


def _moment(minute: int) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC)
