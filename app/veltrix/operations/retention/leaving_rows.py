"""Which events of a range of ids may leave, in SQL: what `rules.why_it_stays` says of each.

`JUDGED` is for whoever has to know it of each event, `COUNTS` counts. Both read events and runs of
the range by id, the counters of its minutes, and the resolved groups of failed runs.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.events import CANARY_ACCOUNT
from veltrix.domain.ids import first_id_of_minute
from veltrix.operations.retention.rules import PolicyMap, PolicyOutcome, Stays
from veltrix.store.arrays import FloatArray, TextArray
from veltrix.store.failure_deltas import RUN_GROUP

_S = "interval '1 second'"

# CTEs that end with `judged (id, stays, runs, succeeded, failed, cancelled)`: `stays` is a name of
# `Stays`, or NULL for what may leave. Canaries are left out: others forget them. Policies of single
# workflows are an array; what every workflow has are numbers. Events are not joined with their runs
# but grouped with them: the planner knows little of ranges of ids, and once chose a loop over all
# runs for each event, which took 30 s for 3,000 events.
JUDGED = f"""
own as materialized (
    select * from unnest(%(workflow)s, %(outcome)s, %(content_s)s::float8[])
        as p(workflow, outcome, content_s)
), sealed as materialized (
    select minute from counters where minute >= %(minute)s and minute < %(end_minute)s
    group by minute having bool_and(is_sealed)
    except
    select minute from counter_deltas where minute >= %(minute)s and minute < %(end_minute)s
), ended as (
    select r.event_id, r.state, r.due_at is not null as is_open,
        case when own.workflow is null then d.general_s else own.content_s end as content_s,
        d.general_s, b.begins_at
    from runs r
    left join own on own.workflow = r.workflow and own.outcome = r.state
    cross join lateral (
        select case r.state when 'succeeded' then %(succeeded_s)s::float8
            when 'cancelled' then %(cancelled_s)s::float8
            when 'failed' then %(failed_s)s::float8 end as general_s
    ) as d
    cross join lateral (
        select case when r.state <> 'failed' then r.settled_at else (
            select greatest(at, r.settled_at) from (
                select least(r.archived_at, (
                    select g.state_changed_at from failure_groups g
                    where g.id = {RUN_GROUP} and g.state = 'resolved'
                )) as at
            ) as dealt_with where at is not null
        ) end as begins_at
    ) as b
    where r.id >= %(first)s::uuid and r.id < %(last)s::uuid
), grouped as (
    select id, bool_or(state is null) as is_event, bool_or(unrouted) as unrouted,
        max(accepted_at) as accepted_at, max(minute) as minute, count(state) as runs,
        count(*) filter (where state = 'succeeded') as succeeded,
        count(*) filter (where state = 'failed') as failed,
        count(*) filter (where state = 'cancelled') as cancelled,
        bool_or(is_open) as is_open, bool_or(is_unresolved) as is_unresolved,
        bool_or(stays) as stays, bool_or(stays_generally) as stays_generally,
        bool_or(is_for_ever) as is_for_ever
    from (
        select id, null::text as state, unrouted, accepted_at, minute, null::boolean as is_open,
            null::boolean as is_unresolved, null::boolean as stays,
            null::boolean as stays_generally, null::boolean as is_for_ever
        from events where id >= %(first)s::uuid and id < %(last)s::uuid
            and account_id <> {CANARY_ACCOUNT}
        union all
        select event_id, state, null, null, null, is_open, begins_at is null,
            coalesce(begins_at + {_S} * content_s > %(now)s::timestamptz, true),
            coalesce(begins_at + {_S} * general_s > %(now)s::timestamptz, true),
            content_s is null
        from ended
    ) as both_tables group by id
), judged as (
    select id, case
            when is_open then '{Stays.OPEN}'
            when is_unresolved then '{Stays.FAILED}'
            when runs = 0 and not unrouted then '{Stays.ASTRAY}'
            when runs = 0 and %(unrouted_s)s::float8 is null then '{Stays.UNROUTED}'
            when runs = 0 and accepted_at + {_S} * %(unrouted_s)s::float8 > %(now)s::timestamptz
                then '{Stays.YOUNG}'
            when stays and not stays_generally then '{Stays.POLICY}'
            when stays and is_for_ever then '{Stays.NEVER}'
            when stays then '{Stays.YOUNG}'
            when minute not in (select minute from sealed) then '{Stays.UNSEALED}'
        end as stays, runs, succeeded, failed, cancelled
    from grouped where is_event
)
"""  # noqa: S608 - put together from constants

_COUNTS = f"""
with {JUDGED}
select stays, count(*), sum(runs)::bigint, sum(succeeded)::bigint, sum(failed)::bigint,
    sum(cancelled)::bigint
from judged group by stays
"""  # noqa: S608 - as JUDGED


class JudgedCounts(msgspec.Struct, frozen=True):
    """How many events of a range stay for one reason, or leave (`stays` None), and their runs."""

    stays: Stays | None
    events: int
    runs: int
    succeeded: int
    failed: int
    cancelled: int


def judged_values(
    policies: PolicyMap, now: datetime, minute: int, end_minute: int
) -> dict[str, object]:
    """The parameters of JUDGED: events accepted from `minute` on and before `end_minute`."""
    own = [one for one in policies.values() if one.workflow]
    general = {
        f"{outcome}_s": None if (found := policies.get(("", outcome))) is None else found.content_s
        for outcome in PolicyOutcome
    }
    return {
        "workflow": TextArray([one.workflow for one in own]),
        "outcome": TextArray([one.outcome.value for one in own]),
        # Where none has a number, an empty array is padded with NULLs.
        "content_s": FloatArray([one.content_s for one in own]),
        "now": now,
        "minute": minute,
        "end_minute": end_minute,
        "first": first_id_of_minute(minute),
        "last": first_id_of_minute(end_minute),
        **general,
    }


def counts(
    tx: Connection, policies: PolicyMap, now: datetime, minute: int, end_minute: int
) -> Sequence[JudgedCounts]:
    """How many events of these minutes stay, by reason, and how many may leave."""
    values = judged_values(policies, now, minute, end_minute)
    return [
        JudgedCounts(None if stays is None else Stays(stays), *numbers)
        for stays, *numbers in tx.exec_driver_sql(_COUNTS, values)
    ]
