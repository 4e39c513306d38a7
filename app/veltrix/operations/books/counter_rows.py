"""The books in the database: deltas folded into counters, minutes recounted from rows.

Every delta commits with the rows it counts, so in one snapshot counters + deltas equal the rows and
what was dropped, of every minute and at every moment; a difference is never a race. Fold and
recount are the only writers of `counters` and `counter_totals`; an advisory lock, held until their
transaction ends, lets one of them work at a time, in whatever process. Canaries are in no book.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from veltrix.domain.events import CANARY_ACCOUNT
from veltrix.domain.ids import first_id_of_minute
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.failure_deltas import UNROUTED_GROUP
from veltrix.store.tables import COUNTED

UNROUTED_GROUPS_MAX = 1_000
BOOKS_LOCK = 0x56454C5452495801  # "VELTRIX" and 1, as bigint: nothing else locks this number
# What rows can prove. Duplicates and refusals leave no row; they are counted beside the books.
PROVABLE = tuple(name for name in COUNTED if name not in ("duplicates", "refused"))

_COLUMNS = ", ".join(COUNTED)
_SUMS = ", ".join(f"sum({name})::bigint as {name}" for name in COUNTED)
_ADDED = ", ".join(f"{name} = counters.{name} + excluded.{name}" for name in COUNTED)
_ADDED_TO_TOTALS = ", ".join(
    f"{name} = counter_totals.{name} + excluded.{name}" for name in COUNTED
)
_LEFT = ", ".join(f"-sum({name})::bigint" for name in COUNTED)

_LOCK = "select pg_try_advisory_xact_lock(%(lock)s)"

_HAS_DELTAS = "select exists (select from counter_deltas order by id limit 1)"

# A sealed minute that is moved again (a replay, a late sweep) leaves the totals: to be recounted.
# Of an unrouted event only the minute is known: for its group it was seen as late as it can have
# been, so that one right after a group was resolved is not taken for one from before. An account
# gets a group of its own with its first unrouted event, while there are fewer than `groups_max`;
# the others, and those whose account is the overflow account, share the group of no source.
_FOLD = f"""
with taken as materialized (
    delete from counter_deltas
    where id in (select id from counter_deltas order by id limit %(list_max)s)
    returning account_id, minute, {_COLUMNS}
), sums as materialized (
    select minute, account_id, {_SUMS} from taken where account_id <> {CANARY_ACCOUNT}
    group by minute, account_id
), reopened as (
    insert into counter_totals (account_id, {_COLUMNS})
    select c.account_id, {_LEFT}
    from counters c join (select minute, account_id from sums) s using (minute, account_id)
    where c.is_sealed group by c.account_id
    on conflict (account_id) do update set {_ADDED_TO_TOTALS}
), added as (
    insert into counters (minute, account_id, {_COLUMNS})
    select minute, account_id, {_COLUMNS} from sums
    on conflict (minute, account_id) do update
    set {_ADDED}, changed_at = now(), is_sealed = false
), unrouted as materialized (
    select s.account_id, s.minute, s.unrouted, a.source, a.type, a.has_unrouted_group as has_group
    from sums s left join accounts a on a.id = s.account_id where s.unrouted <> 0
), newcomers as materialized (
    select account_id, exists (select from failure_groups g where g.id = new.own)
        or row_number() over (order by account_id) <= %(groups_max)s
            - (select count(*) from accounts where has_unrouted_group) as has_group
    from (
        select distinct account_id, {UNROUTED_GROUP} collate "default" as own from unrouted
        where has_group is null and source is not null
    ) as new
), decided as (
    update accounts a set has_unrouted_group = n.has_group
    from newcomers n where a.id = n.account_id
), grouped as (
    insert into failure_deltas (group_id, kind, source, event_type, count, seen, seen_at)
    select {UNROUTED_GROUP}, 'unrouted', source, type, sum(unrouted),
        sum(greatest(unrouted, 0)),
        least(clock_timestamp(), to_timestamp(minute * 60.0) + interval '59.999999 seconds')
    from (
        select case when coalesce(u.has_group, n.has_group) then source else '' end as source,
            case when coalesce(u.has_group, n.has_group) then type else '' end as type,
            minute, unrouted
        from unrouted u left join newcomers n using (account_id)
    ) as shared
    group by source, type, minute
)
select count(*) from taken
"""  # noqa: S608 - column names of our own table

_NOW_MINUTE = "select floor(extract(epoch from now()) / 60)::int"

# What is out of sight and not in the books of what was dropped yet is in neither: for some seconds.
_LEAVES = """exists (select from retention_drops d where d.state = 'swapped'
    and d.first_minute <= {minute} and d.end_minute > {minute})"""

# A minute whose counters say that all is settled is recounted as soon as it changed. One with open
# runs is recounted again when its age has grown by a quarter: a run that sleeps for a month costs a
# few dozen recounts, not one every ten seconds. A minute that does not balance, once a minute.
_UNSEALED = f"""
select minute, sum(accepted + started)::bigint
from counters
where not is_sealed and minute <= %(closed)s and not {_LEAVES.format(minute="minute")}
group by minute
having bool_or(
    recounted_at is null
    or (changed_at > recounted_at and started = succeeded + failed + cancelled)
    or now() - recounted_at > %(again)s * case
        when discrepancy > 0 then interval '60 seconds'
        else (now() - to_timestamp(minute * 60.0)) / 4 end)
order by min(coalesce(recounted_at, '-infinity')), minute
limit %(minutes_max)s
"""  # noqa: S608 - put together from constants

# Rows whose counters are gone altogether would never be looked at: the last hour is searched.
_UNCOUNTED = f"""
select k.minute
from unnest(%(minute)s, %(first)s::uuid[], %(last)s::uuid[]) as k(minute, first, last)
where not exists (select from counters c where c.minute = k.minute)
  and not {_LEAVES.format(minute="k.minute")}
  and (exists (select from events e where e.id >= k.first and e.id < k.last
            and e.account_id <> {CANARY_ACCOUNT})
       or exists (select from runs r where r.id >= k.first and r.id < k.last
            and r.account_id <> {CANARY_ACCOUNT}))
"""  # noqa: S608 - a number of ours

# One pass over a minute: its events and runs in id order, where each event stands right before its
# runs (app/veltrix/domain/ids.py), so both index scans are merged and nothing is sorted or hashed.
# `astray`: an event marked routed without a run, or unrouted with one; a run without its event; a
# row filed under another minute.
_ROWS = f"""
select k.minute, x.*
from unnest(%(minute)s, %(first)s::uuid[], %(last)s::uuid[]) as k(minute, first, last)
cross join lateral (
    select account_id,
        count(*) filter (where state is null) as accepted,
        count(*) filter (where state is null and not unrouted) as routed,
        count(*) filter (where state is null and unrouted) as unrouted,
        count(state) as started,
        count(*) filter (where state = 'succeeded') as succeeded,
        count(*) filter (where state = 'failed') as failed,
        count(*) filter (where state = 'cancelled') as cancelled,
        0::bigint as dead_letters,
        count(*) filter (where state in ('queued', 'running', 'waiting')) as open,
        count(*) filter (
                where state is null and unrouted = (next_event is not distinct from event_id)
                   or state is not null and last_event is distinct from event_id)
            + count(*) filter (where filed <> k.minute)
            + count(*) filter (where state not in ('queued', 'running', 'waiting', 'succeeded',
                                                   'failed', 'cancelled')) as astray
    from (
        select *, lag(event_id) over in_order as last_event,
            lead(event_id) over in_order as next_event
        from (
            select id, id as event_id, account_id, minute as filed, null::text as state, unrouted
            from events where id >= k.first and id < k.last and account_id <> {CANARY_ACCOUNT}
            union all
            select id, event_id, account_id, minute, state, null
            from runs where id >= k.first and id < k.last and account_id <> {CANARY_ACCOUNT}
        ) as both_tables
        window in_order as (order by id)
    ) as neighbours
    group by account_id
    union all
    select 0, 0, 0, 0, 0, 0, 0, 0, count(*), 0, 0
    from dead_letters
    where received_at >= to_timestamp(k.minute * 60.0)
      and received_at < to_timestamp(k.minute * 60.0 + 60)
    having count(*) > 0
) as x
"""  # noqa: S608 - a number of ours

_BOOKED = " + ".join(
    f"abs(coalesce(c.{name}, 0) + coalesce(d.{name}, 0) - coalesce(f.{name}, 0))"
    for name in PROVABLE
)
_FOUND = ", ".join(f"sum({name})::bigint as {name}" for name in (*PROVABLE, "open", "astray"))

# What was dropped of a minute counts as if it were there: a run that was kept may be replayed.
_DROPPED = f"""
select minute, account_id, {", ".join(PROVABLE)}, 0, 0 from dropped where minute = any(%(minute)s)
"""  # noqa: S608 - column names of our own table

_RECOUNT = f"""
with found as materialized (
    select minute, account_id, {_FOUND} from ({_ROWS} union all {_DROPPED}) as counted
    group by minute, account_id
), pending as materialized (
    select minute, account_id, {_SUMS} from counter_deltas
    where minute = any(%(minute)s) and account_id <> {CANARY_ACCOUNT}
    group by minute, account_id
), known as materialized (
    select * from counters where minute = any(%(minute)s)
), judged as materialized (
    select minute, account_id, coalesce(c.is_sealed, false) as was_sealed,
        {_BOOKED} + coalesce(f.astray, 0) as discrepancy,
        coalesce(f.open, 0) = 0 and d.minute is null as is_at_rest,
        {", ".join(f"coalesce(c.{name}, 0) as {name}" for name in COUNTED)}
    from found f
    full join pending d using (minute, account_id)
    full join known c using (minute, account_id)
), moved as (
    insert into counter_totals (account_id, {_COLUMNS})
    select account_id, {
    ", ".join(f"sum(case when was_sealed then -{name} else {name} end)" for name in COUNTED)
}
    from judged where was_sealed <> (discrepancy = 0 and is_at_rest)
    group by account_id
    on conflict (account_id) do update set {_ADDED_TO_TOTALS}
), marked as (
    insert into counters (minute, account_id, changed_at, recounted_at, discrepancy, is_sealed)
    select minute, account_id, now(), now(), discrepancy, discrepancy = 0 and is_at_rest
    from judged where not (was_sealed and discrepancy = 0 and is_at_rest)
    on conflict (minute, account_id) do update
    set recounted_at = now(), discrepancy = excluded.discrepancy, is_sealed = excluded.is_sealed
)
select count(distinct minute), count(distinct minute) filter (where discrepancy > 0),
    count(*) filter (where discrepancy = 0 and is_at_rest and not was_sealed),
    coalesce(sum(discrepancy), 0)::bigint
from judged
"""  # noqa: S608 - as _FOLD


class Recount(msgspec.Struct, frozen=True):
    """What a recount found: minutes looked at, those that do not balance, accounts sealed."""

    minutes: int = 0
    unbalanced: int = 0
    sealed: int = 0
    discrepancy: int = 0


def lock_books(tx: Connection) -> bool:
    """Keep other folds and recounts away until the transaction ends; False: one is at it."""
    return bool(tx.exec_driver_sql(_LOCK, {"lock": BOOKS_LOCK}).scalar_one())


def has_deltas(tx: Connection) -> bool:
    """There is something to fold: one statement, where a fold that finds nothing takes four."""
    return bool(tx.exec_driver_sql(_HAS_DELTAS).scalar_one())


def fold(tx: Connection, list_max: int, unrouted_groups_max: int = UNROUTED_GROUPS_MAX) -> int:
    """Move the oldest `list_max` deltas into the counters; how many there were.

    Needs `lock_books`. A sealed minute that gets a delta is unsealed. Sources and types of unrouted
    events beyond `unrouted_groups_max` share a failure group.
    """
    keys = {"list_max": list_max, "groups_max": unrouted_groups_max}
    return int(tx.exec_driver_sql(_FOLD, keys).scalar_one())


def minutes_to_recount(
    tx: Connection,
    *,
    closed_minutes: int,
    search_minutes: int,
    minutes_max: int,
    rows_max: int,
    is_forced: bool = False,
) -> list[int]:
    """Closed minutes that need a recount, longest neglected first; about `rows_max` rows of them.

    At least one if any needs it. Minutes of the last `search_minutes` that have rows but no
    counters are among them. `is_forced` leaves out the pauses between recounts of one minute.
    """
    closed = int(tx.exec_driver_sql(_NOW_MINUTE).scalar_one()) - closed_minutes
    searched = _ranges(range(closed - search_minutes + 1, closed + 1))
    chosen = [row[0] for row in tx.exec_driver_sql(_UNCOUNTED, searched)]
    rows = 0
    keys = {"closed": closed, "minutes_max": minutes_max, "again": 0 if is_forced else 1}
    for minute, count in tx.exec_driver_sql(_UNSEALED, keys):
        rows += count
        if chosen and rows > rows_max:
            break
        chosen.append(minute)
    return chosen[:minutes_max]


def recount(tx: Connection, minutes: Sequence[int]) -> Recount:
    """Compare these minutes with their rows and what was dropped of them, seal what agrees.

    Needs `lock_books`, in a REPEATABLE READ transaction. Each account's discrepancy is noted. An
    account's minute that agrees, has nothing open and no delta to fold is sealed: its counts go
    into the totals. One that no longer agrees leaves them.
    """
    return Recount(*tx.exec_driver_sql(_RECOUNT, _ranges(minutes)).one())


def _ranges(minutes: Sequence[int]) -> dict[str, object]:
    return {
        "minute": IntArray(minutes),
        "first": TextArray([first_id_of_minute(minute) for minute in minutes]),
        "last": TextArray([first_id_of_minute(minute + 1) for minute in minutes]),
    }
