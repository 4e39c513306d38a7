"""How long runs take from acceptance to outcome, without the time they slept.

Of the newest runs only, by one stretch of the primary key: it costs the same with any history.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.events import CANARY_ACCOUNT
from veltrix.domain.ids import first_id_at

NEWEST_RUNS = 1_000
_SLEEP_S_MAX = 1_000_000_000.0  # what a time can be moved by


class WorkflowPace(msgspec.Struct, frozen=True):
    """Times from acceptance to outcome of a workflow's settled runs among the newest.

    None: there are none. Replayed runs are left out: a person was between their two times.
    `before_p95_s` is of the older half of them, `lately_p95_s` of the newer one.
    """

    workflow: str | None
    settled: int
    p50_s: float | None
    p95_s: float | None
    before_p95_s: float | None
    lately_p95_s: float | None
    since: datetime | None


# Sleeps may be side by side in branches, and one that a run did not wait for outlasts it: what is
# taken off is the time in which at least one was on.
_PACES = """
with newest as materialized (
    {newest}
), slept as (
    select n.id, sum(extract(epoch from upper(pause) - lower(pause)))::float8 as slept_s
    from newest n
    cross join lateral (
        select range_agg(tstzrange(j.recorded_at, greatest(j.recorded_at, least(n.settled_at,
            j.recorded_at + least(j.output::text::float8, %(sleep_s_max)s)
                * interval '1 second')))) as pauses
        from journal j where j.run_id = n.id and j.generation = 0 and j.kind = 'sleep'
    ) as of_run
    cross join lateral unnest(pauses) as pause
    where n.settled_at is not null group by n.id
), settled as materialized (
    select workflow, started_at,
        extract(epoch from settled_at - started_at)::float8 - coalesce(slept_s, 0) as took_s,
        ntile(2) over (partition by workflow order by id) as half
    from newest left join slept using (id) where settled_at is not null
)
select workflow, count(*), percentile_disc(0.5) within group (order by took_s),
    percentile_disc(0.95) within group (order by took_s),
    percentile_disc(0.95) within group (order by took_s) filter (where half = 1),
    percentile_disc(0.95) within group (order by took_s) filter (where half = 2),
    min(started_at)
from settled group by grouping sets ((), (workflow))
order by grouping(workflow) desc, 4 desc, workflow
"""
_OF_ALL = _PACES.format(
    newest=f"""select id, workflow, started_at, settled_at from runs
    where generation = 0 and account_id <> {CANARY_ACCOUNT} order by id desc limit %(newest)s"""  # noqa: S608 - a number of ours
)
_OF_ONE = _PACES.format(
    newest="""select id, workflow, started_at, settled_at from (
        select * from runs where id >= %(first)s::uuid order by id desc limit %(looked_at)s
    ) as looked_at
    where generation = 0 and workflow = %(workflow)s order by id desc limit %(newest)s"""
)


def paces(tx: Connection, newest: int = NEWEST_RUNS) -> list[WorkflowPace]:
    """All workflows together (`workflow` None), then each of them, the slowest first."""
    asked = {"newest": newest, "sleep_s_max": _SLEEP_S_MAX}
    return [WorkflowPace(*row) for row in tx.exec_driver_sql(_OF_ALL, asked)]


def pace_of(
    tx: Connection, workflow: str, *, since: datetime, looked_at: int
) -> WorkflowPace | None:
    """Of the newest 1,000 runs of this workflow that are among the newest `looked_at` of all.

    None: none of those accepted since then is settled.
    """
    asked = {
        "workflow": workflow,
        "first": first_id_at(since),
        "looked_at": looked_at,
        "newest": NEWEST_RUNS,
        "sleep_s_max": _SLEEP_S_MAX,
    }
    found = [WorkflowPace(*row) for row in tx.exec_driver_sql(_OF_ONE, asked)]
    return next((pace for pace in found if pace.workflow == workflow), None)
