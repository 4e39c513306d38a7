"""The failure groups that somebody should look at now: regressed, new, or growing.

It costs the same however many failures and groups there are: the newest groups are looked at.
"""

from datetime import datetime
from enum import StrEnum

import msgspec
from sqlalchemy import Connection

from veltrix.domain.failure_groups import GroupKind

GROUPS_MAX = 200
GROWING_MIN = 3  # in two hours: one or two are no trend


class UrgentWhy(StrEnum):
    """Why a group is urgent, the most urgent first."""

    REGRESSED = "regressed"
    NEW = "new"
    GROWING = "growing"


class UrgentGroup(msgspec.Struct, frozen=True):
    """A group without what payloads said. `by_hour`: as of a line of a list, the current one last.

    Regressed: resolved, and seen again. New: first seen in the last 24 hours. Growing: in this hour
    and the last one together seen at least 3 times, and more than twice as often as in two hours of
    the day before.
    """

    id: str
    kind: GroupKind
    why: UrgentWhy
    workflow: str | None
    step: str | None
    type: str | None
    queue: str | None
    reason: str | None
    source: str | None
    event_type: str | None
    count: int
    first_seen_at: datetime
    last_seen_at: datetime
    lately: int


_URGENT = """
with newest as materialized (
    select * from failure_groups
    where last_seen_at >= now() - interval '1 day'
    order by last_seen_at desc, id desc limit %(max)s
), seen as (
    select group_id, sum(seen) filter (where hour >= date_trunc('hour', now()) - interval '1 hour')
            as lately,
        sum(seen) filter (where hour < date_trunc('hour', now()) - interval '1 hour') as before
    from failure_hours
    where group_id in (select id from newest)
        and hour > date_trunc('hour', now()) - interval '24 hours'
    group by group_id
), told as (
    select n.*, coalesce(lately, 0)::bigint as lately,
        case when state = 'regressed' then 'regressed'
            when first_seen_at >= now() - interval '1 day' then 'new'
            when lately >= %(growing)s and lately > 2 * coalesce(before, 0) / 11 then 'growing'
        end as why
    from newest n left join seen on group_id = id
    where state in ('open', 'regressed') and n.count > 0
)
select id, kind, why, workflow, step, type, queue, reason, source, event_type, count,
    first_seen_at, last_seen_at, lately
from told where why is not null
order by why <> 'regressed', lately desc, last_seen_at desc, id
"""


def urgent(tx: Connection) -> list[UrgentGroup]:
    """Those of the 200 groups seen last that are regressed, new or growing; the worst first."""
    asked = {"max": GROUPS_MAX, "growing": GROWING_MIN}
    rows = tx.exec_driver_sql(_URGENT, asked).mappings()
    return [msgspec.convert(dict(row), UrgentGroup) for row in rows]
