"""Failure groups in the database: deltas folded into groups, groups recounted from rows.

Every delta commits with the rows that it counts, and only a failure or an action on one writes any,
so in one snapshot groups + deltas equal the rows; a difference is never a race. A fold only
moves deltas, which changes no sum; a correction is a delta like any other.
"""

from collections.abc import Sequence
from hashlib import md5

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.domain.failure_groups import MOVES, RUN_KINDS, UNGROUPED, GroupKind, GroupState
from veltrix.domain.states import Reason
from veltrix.store.transactions import is_locked

GROUPS_LOCK = 0x56454C5452495802  # "VELTRIX" and 2, as bigint: the books lock 1
# Conflicts with nothing but itself; unlike a select it leaves the snapshot to what comes after.
_TAKE_TURN = "lock table failure_hours in share update exclusive mode"
_TAKE_TURN_NOW = f"{_TAKE_TURN} nowait"
_LOCK = "select pg_try_advisory_xact_lock(%(lock)s)"
_HAS_DELTAS = "select exists (select from failure_deltas order by id limit 1)"
_RUN_KINDS = [kind.value for kind in RUN_KINDS]

# A group's id and kind, over the columns of dead letters, accounts and runs.
LETTER_GROUP = "left(md5('letter' || chr(31) || queue || chr(31) || reason), 16)"
LETTER_KIND = "case when reason = 'unroutable' then 'unroutable' else 'dead_letter' end"
UNROUTED_GROUP = "left(md5('unrouted' || chr(31) || source || chr(31) || type), 16)"
# Of unrouted events whose source and type have no group of their own: of no source and no type.
SHARED_GROUP = md5(b"unrouted\x1f\x1f", usedforsecurity=False).hexdigest()[:16]
POISON_GROUP = "left(md5('poison' || chr(31) || workflow), 16)"
RUN_GROUP = f"coalesce(fingerprint, '{UNGROUPED}')"
RUN_KIND = f"case when reason = '{Reason.POISON}' then 'poison' else 'run' end"

# Runs that are no longer failed; the columns are those they had. For `.format(rows=...)`.
LEAVE_GROUPS = f"""insert into failure_deltas (group_id, kind, workflow, count, archived)
    select {RUN_GROUP}, {RUN_KIND}, workflow, -count(*) filter (where archived_at is null),
        -count(*) filter (where archived_at is not null)
    from {{rows}} group by 1, 2, 3"""  # noqa: S608 - put together from constants

# A failure of the version that was to have no more of them, or of one that came after it; without a
# version, or of what never came to any code, any failure since. Of code that nobody registered it
# cannot be said that it is older.
_REGRESS = """
update failure_groups g set state = 'regressed', state_changed_at = now(), state_changed_by = null,
    state_reason = 'seen again in ' || coalesce(d.code_version, 'an unknown version')
from (
    select distinct on (d.group_id) d.group_id, d.code_version
    from (select * from failure_deltas order by id limit %(list_max)s) d
    join failure_groups g on g.id = d.group_id and g.state = 'resolved'
    left join subscriptions v on v.workflow = g.workflow and v.code_version = g.resolved_version
    left join subscriptions f on f.workflow = g.workflow and f.code_version = d.code_version
    where d.seen > 0 and d.seen_at > g.state_changed_at
      and (g.resolved_version is null or g.kind <> all(%(run_kinds)s::text[])
        or d.code_version = g.resolved_version
        or (v.registered_at is not null
            and coalesce(f.registered_at >= v.registered_at, true)))
    order by d.group_id, d.seen_at
) d
where g.id = d.group_id and g.state = 'resolved'
returning g.id
"""

# The first sample says what the error is: a run that is replayed meanwhile leaves that open.
_FOLD = """
with taken as materialized (
    delete from failure_deltas
    where id in (select id from failure_deltas order by id limit %(list_max)s)
    returning *
), sums as materialized (
    select group_id, (array_agg(kind order by id))[1] as kind, sum(count)::bigint as count,
        sum(archived)::bigint as archived, sum(seen)::bigint as seen,
        min(seen_at) as first_at, max(seen_at) as last_at, min(seen_at) filter (where seen > 0)
            as first_seen_at,
        max(seen_at) filter (where seen > 0) as last_seen_at,
        (array_agg(run_id order by id) filter (where run_id is not null))[1] as run_id,
        min(workflow) as workflow, min(step) as step, min(queue) as queue, min(reason) as reason,
        min(source) as source, min(event_type) as event_type
    from taken group by group_id
), hours as (
    insert into failure_hours (group_id, hour, code_version, seen)
    select group_id, date_trunc('hour', seen_at), coalesce(code_version, ''), sum(seen)::bigint
    from taken where seen > 0 group by 1, 2, 3 order by 1, 2, 3
    on conflict (group_id, hour, code_version) do update
    set seen = failure_hours.seen + excluded.seen
), put as (
    insert into failure_groups as g (id, kind, workflow, step, type, message, queue, reason, source,
        event_type, count, archived, total, first_seen_at, last_seen_at)
    select s.group_id, s.kind, s.workflow, s.step, r.outcome ->> 'type',
        left(r.outcome ->> 'message', 500), s.queue, s.reason, s.source, s.event_type, s.count,
        s.archived, s.seen, coalesce(s.first_seen_at, s.first_at),
        coalesce(s.last_seen_at, s.last_at)
    from sums s
    left join lateral (
        select outcome from runs where life < 2 and id = s.run_id and state = 'failed'
            and json_typeof(outcome) = 'object' offset 0
    ) r on true
    order by s.group_id
    on conflict (id) do update set count = g.count + excluded.count,
        archived = g.archived + excluded.archived, total = g.total + excluded.total,
        type = coalesce(g.type, excluded.type), message = coalesce(g.message, excluded.message),
        step = coalesce(g.step, excluded.step),
        first_seen_at = case when excluded.total > 0
            then least(g.first_seen_at, excluded.first_seen_at) else g.first_seen_at end,
        last_seen_at = case when excluded.total > 0
            then greatest(g.last_seen_at, excluded.last_seen_at) else g.last_seen_at end
    returning id, xmax = 0 as is_new
)
select (select count(*) from taken), array(select id from put where is_new order by id)
"""

_FOUND = f"""
    select {RUN_GROUP} as id, count(*) filter (where archived_at is null) as count,
        count(*) filter (where archived_at is not null) as archived, null as queue, null as reason,
        null as source, null as event_type, true as is_run
    from runs where life < 2 and state = 'failed' group by fingerprint
    union all
    select {LETTER_GROUP}, count(*), 0, queue, reason, null, null, false
    from dead_letters where seen_at is null group by queue, reason
    union all
    select {UNROUTED_GROUP}, sum(unrouted)::bigint, 0, null, null, source, type, false
    from (
        select case when a.has_unrouted_group is false then '' else coalesce(source, '') end
                as source,
            case when a.has_unrouted_group is false then '' else coalesce(type, '') end as type,
            unrouted
        from (
            select account_id, unrouted from counter_totals
            union all
            select account_id, unrouted from counters where not is_sealed
        ) as counted left join accounts a on a.id = counted.account_id
    ) as shared
    group by source, type having sum(unrouted) <> 0
"""  # noqa: S608 - as LEAVE_GROUPS

_BOOKED = """
    select id, sum(count)::bigint as count, sum(archived)::bigint as archived,
        sum(total)::bigint as total
    from (
        select id, count, archived, total from failure_groups
        union all
        select group_id, count, archived, seen from failure_deltas
    ) as both_tables group by id
"""

_DIFFERENT = f"""
with found as ({_FOUND}), booked as ({_BOOKED})
select id, coalesce(f.count, 0), coalesce(f.archived, 0), coalesce(b.count, 0),
    coalesce(b.archived, 0), coalesce(f.is_run and coalesce(b.total, 0) = 0, false),
    f.queue, f.reason, f.source, f.event_type
from found f full join booked b using (id)
where (coalesce(f.count, 0), coalesce(f.archived, 0))
    <> (coalesce(b.count, 0), coalesce(b.archived, 0))
order by id
"""  # noqa: S608 - as LEAVE_GROUPS

# What failed before there were groups, with its hours.
_ADOPT = f"""
insert into failure_deltas (group_id, kind, workflow, step, code_version, run_id, count, archived,
    seen, seen_at)
select {RUN_GROUP}, {RUN_KIND}, workflow, failed_step, code_version, max(id::text)::uuid,
    count(*) filter (where archived_at is null), count(*) filter (where archived_at is not null),
    count(*), max(settled_at)
from runs r where life < 2 and state = 'failed' and {RUN_GROUP} = any(%(id)s)
group by 1, 2, workflow, failed_step, code_version, date_trunc('hour', settled_at)
"""  # noqa: S608 - as LEAVE_GROUPS

_NEW_LETTER_KIND = LETTER_KIND.replace("reason", "k.reason")
_CORRECT = f"""
insert into failure_deltas (group_id, kind, count, archived, seen, queue, reason, source,
    event_type)
select k.id, coalesce(g.kind, case when k.source is not null then 'unrouted'
        when k.queue is not null then {_NEW_LETTER_KIND} else 'run' end),
    k.count, k.archived, greatest(k.count + k.archived, 0), k.queue, k.reason, k.source,
    k.event_type
from unnest(%(id)s::text[], %(count)s::bigint[], %(archived)s::bigint[], %(queue)s::text[],
        %(reason)s::text[], %(source)s::text[], %(event_type)s::text[])
    as k(id, count, archived, queue, reason, source, event_type)
left join failure_groups g on g.id = k.id
order by k.id
"""  # noqa: S608 - as LEAVE_GROUPS

_MOVE = """
update failure_groups set state = %(state)s, resolved_version = %(version)s,
    state_changed_at = clock_timestamp(), state_changed_by = %(author)s, state_reason = %(reason)s
where id = %(id)s and state = any(%(from_states)s)
    and (%(version)s::text is null or kind = any(%(run_kinds)s::text[]))
returning state
"""

_STATE = "select kind, state, state_changed_by from failure_groups where id = %(id)s"

_NOTE = """
insert into failure_notes (group_id, author, text)
select id, %(author)s, %(text)s from failure_groups where id = %(id)s
returning id
"""

_FORGET = "delete from failure_hours where hour < now() - %(days)s * interval '1 day'"


class Folded(msgspec.Struct, frozen=True):
    """What a fold did: deltas taken, groups seen for the first time, groups seen again."""

    deltas: int = 0
    opened: list[str] = []
    regressed: list[str] = []


class Miscount(msgspec.Struct, frozen=True):
    """A group whose counts are not those of the rows. `is_new`: failures from before groups."""

    id: str
    count: int
    archived: int
    booked_count: int
    booked_archived: int
    is_new: bool
    queue: str | None = None
    reason: str | None = None
    source: str | None = None
    event_type: str | None = None


class GroupStanding(msgspec.Struct, frozen=True):
    """How a group stands, and who brought it there; None: a failure did."""

    kind: GroupKind
    state: GroupState
    by: str | None


def lock_groups(tx: Connection) -> bool:
    """Keep other folds of groups away until the transaction ends; False: one is at it."""
    return bool(tx.exec_driver_sql(_LOCK, {"lock": GROUPS_LOCK}).scalar_one())


def has_deltas(tx: Connection) -> bool:
    """There is something to fold."""
    return bool(tx.exec_driver_sql(_HAS_DELTAS).scalar_one())


def fold(tx: Connection, list_max: int) -> Folded:
    """Move the oldest `list_max` deltas into their groups; resolved ones seen again regress.

    Needs `lock_groups`, and a snapshot: a delta that came between the two statements would be
    folded without being looked at.
    """
    keys = {"list_max": list_max, "run_kinds": _RUN_KINDS}
    regressed = [row[0] for row in tx.exec_driver_sql(_REGRESS, keys)]
    deltas, opened = tx.exec_driver_sql(_FOLD, keys).one()
    return Folded(deltas, opened, regressed)


def take_turn(tx: Connection, *, is_patient: bool = True) -> bool:
    """Let no other correct until this transaction ends; False: one is at it (if not `is_patient`).

    It must be its first statement, so that its snapshot shows what the one before corrected.
    """
    if is_patient:
        tx.exec_driver_sql(_TAKE_TURN)
        return True
    try:
        with tx.begin_nested():
            tx.exec_driver_sql(_TAKE_TURN_NOW)
    except DBAPIError as error:
        if not is_locked(error):
            raise
        return False
    return True


def miscounts(tx: Connection) -> list[Miscount]:
    """The groups whose counts, with the deltas, are not those of the rows. Needs a snapshot."""
    return [Miscount(*row) for row in tx.exec_driver_sql(_DIFFERENT)]


def correct(tx: Connection, found: Sequence[Miscount]) -> None:
    """Write the deltas that make these groups agree with their rows.

    Needs `take_turn`, and the snapshot in which `miscounts` found them. A fold beside it changes
    no sum.
    """
    if new := [one.id for one in found if one.is_new]:
        tx.exec_driver_sql(_ADOPT, {"id": new})
    rest = [one for one in found if not one.is_new or one.booked_count or one.booked_archived]
    if rest:
        tx.exec_driver_sql(
            _CORRECT,
            {
                "id": [one.id for one in rest],
                "count": [one.count * (not one.is_new) - one.booked_count for one in rest],
                "archived": [one.archived * (not one.is_new) - one.booked_archived for one in rest],
                "queue": [one.queue for one in rest],
                "reason": [one.reason for one in rest],
                "source": [one.source for one in rest],
                "event_type": [one.event_type for one in rest],
            },
        )


def move(
    tx: Connection, group_id: str, to: GroupState, *, version: str | None, author: str, reason: str
) -> bool:
    """Whether the group is now in this state and was in one from which it may come.

    With a version only one of runs is: see `RUN_KINDS`.
    """
    moved = tx.exec_driver_sql(
        _MOVE,
        {
            "id": group_id,
            "state": to.value,
            "version": version,
            "author": author,
            "reason": reason,
            "from_states": [state.value for state in MOVES[to]],
            "run_kinds": _RUN_KINDS,
        },
    )
    return moved.first() is not None


def standing(tx: Connection, group_id: str) -> GroupStanding | None:
    """How the group stands, or None if there is no such group."""
    row = tx.exec_driver_sql(_STATE, {"id": group_id}).one_or_none()
    return None if row is None else GroupStanding(GroupKind(row[0]), GroupState(row[1]), row[2])


def note(tx: Connection, group_id: str, author: str, text: str) -> int | None:
    """Write a note beside the group; its id, or None if there is no such group."""
    values = {"id": group_id, "author": author, "text": text}
    return tx.exec_driver_sql(_NOTE, values).scalar_one_or_none()


def forget_hours(tx: Connection, days: int) -> int:
    """Delete what was seen in hours longer ago than this; how many rows. Totals stay."""
    return tx.exec_driver_sql(_FORGET, {"days": days}).rowcount
