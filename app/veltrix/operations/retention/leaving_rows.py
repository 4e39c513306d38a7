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
# workflows are an array; what every workflow has are numbers, so that most runs join nothing.
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
    select r.event_id, r.state, r.due_at is not null as is_open, own.workflow is not null as is_own,
        own.content_s as own_s,
        case r.state when 'succeeded' then %(succeeded_s)s::float8
            when 'cancelled' then %(cancelled_s)s::float8
            when 'failed' then %(failed_s)s::float8 end as general_s,
        case when r.state = 'failed'
            then case when r.archived_at is not null or g.id is not null
                then greatest(least(r.archived_at, g.state_changed_at), r.settled_at) end
            else r.settled_at end as begins_at
    from runs r
    left join own on own.workflow = r.workflow and own.outcome = r.state
    left join failure_groups g on r.state = 'failed' and g.state = 'resolved'
        and g.id = {RUN_GROUP.replace("fingerprint", "r.fingerprint")}
    where r.id >= %(first)s::uuid and r.id < %(last)s::uuid
), settled as (
    select event_id, bool_or(is_open) as is_open, bool_or(begins_at is null) as is_unresolved,
        bool_or(coalesce(begins_at + {_S} * case when is_own then own_s else general_s end
            > %(now)s::timestamptz, true)) as stays,
        bool_or(coalesce(begins_at + {_S} * general_s > %(now)s::timestamptz, true))
            as stays_generally,
        bool_or(case when is_own then own_s else general_s end is null) as is_for_ever,
        count(*) as runs, count(*) filter (where state = 'succeeded') as succeeded,
        count(*) filter (where state = 'failed') as failed,
        count(*) filter (where state = 'cancelled') as cancelled
    from ended group by event_id
), judged as (
    select e.id, case
            when r.is_open then '{Stays.OPEN}'
            when r.is_unresolved then '{Stays.FAILED}'
            when r.event_id is null and not e.unrouted then '{Stays.ASTRAY}'
            when r.event_id is null and %(unrouted_s)s::float8 is null then '{Stays.UNROUTED}'
            when r.event_id is null
                and e.accepted_at + {_S} * %(unrouted_s)s::float8 > %(now)s::timestamptz
                then '{Stays.YOUNG}'
            when r.stays and not r.stays_generally then '{Stays.POLICY}'
            when r.stays and r.is_for_ever then '{Stays.NEVER}'
            when r.stays then '{Stays.YOUNG}'
            when s.minute is null then '{Stays.UNSEALED}'
        end as stays, coalesce(r.runs, 0) as runs, coalesce(r.succeeded, 0) as succeeded,
        coalesce(r.failed, 0) as failed, coalesce(r.cancelled, 0) as cancelled
    from events e
    left join settled r on r.event_id = e.id
    left join sealed s on s.minute = e.minute
    where e.id >= %(first)s::uuid and e.id < %(last)s::uuid and e.account_id <> {CANARY_ACCOUNT}
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
