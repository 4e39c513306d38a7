"""What became of a workflow's newest runs: how many, when, and in which version of its code.

Runs of the last day that are among the newest 20,000 of all workflows, by one stretch of the
primary key: it costs the same with any history.
"""

from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, text

from veltrix.domain.ids import first_id_at
from veltrix.operations.runs.read_pace import WorkflowPace, pace_of

LOOKED_AT_MAX = 20_000
WINDOW = timedelta(days=1)
BUCKETS = 24
_MOMENT = timedelta(milliseconds=1)


class RunBucket(msgspec.Struct, frozen=True):
    """Runs accepted from `since` on, for a twenty-fourth of the time looked at."""

    since: datetime
    accepted: int
    failed: int


class VersionRuns(msgspec.Struct, frozen=True):
    """Runs that were last in this version of the code; None: no worker has had them yet."""

    code_version: str | None
    runs: int
    failed: int


class WorkflowRuns(msgspec.Struct, frozen=True):
    """The runs looked at, by what they are now. `since`: from when on all runs were looked at."""

    since: datetime
    until: datetime
    accepted: int
    succeeded: int
    failed: int
    cancelled: int
    buckets: list[RunBucket]
    versions: list[VersionRuns]
    pace: WorkflowPace | None

    @property
    def failed_share(self) -> float | None:
        """Of those that succeeded or failed, how many failed; None: there are none."""
        ended = self.succeeded + self.failed
        return self.failed / ended if ended else None

    @property
    def per_minute(self) -> float:
        """Accepted in a minute."""
        return self.accepted * 60 / max(1.0, (self.until - self.since).total_seconds())


# Below the oldest one that was looked at there may be more, unless these are all of the window.
_COUNTS = """
with looked_at as materialized (
    select workflow, state, started_at, code_version from runs
    where id >= %(first)s::uuid order by id desc limit %(looked_at)s
), bounds as materialized (
    select case when count(*) < %(looked_at)s then %(since)s::timestamptz else min(started_at) end
        as since
    from looked_at
), counted as (
    select date_bin(greatest((%(until)s::timestamptz - since) / %(buckets)s, interval '1 ms'),
            started_at, since) as bucket, code_version, state, count(*) as runs
    from looked_at cross join bounds where workflow = %(workflow)s group by 1, 2, 3
)
select since, bucket, code_version, state, runs from bounds left join counted on true
"""


def workflow_runs(tx: Connection, workflow: str) -> WorkflowRuns:
    """The newest runs of this workflow. Needs a snapshot."""
    until: datetime = tx.execute(text("select now()")).scalar_one()
    since = until - WINDOW
    asked = {
        "first": first_id_at(since),
        "looked_at": LOOKED_AT_MAX,
        "workflow": workflow,
        "since": since,
        "until": until,
        "buckets": BUCKETS,
    }
    rows = tx.exec_driver_sql(_COUNTS, asked).all()
    since = rows[0][0]
    width = (until - since) / BUCKETS
    accepted, failed = [0] * BUCKETS, [0] * BUCKETS
    states: dict[str, int] = {}
    versions: dict[str | None, list[int]] = {}
    for _, bucket, version, state, count in rows:
        if bucket is None:  # none of this workflow
            continue
        at = min(max(round((bucket - since) / max(width, _MOMENT)), 0), BUCKETS - 1)
        accepted[at] += count
        states[state] = states.get(state, 0) + count
        of_version = versions.setdefault(version, [0, 0])
        of_version[0] += count
        if state == "failed":
            failed[at] += count
            of_version[1] += count
    return WorkflowRuns(
        since=since,
        until=until,
        accepted=sum(accepted),
        succeeded=states.get("succeeded", 0),
        failed=states.get("failed", 0),
        cancelled=states.get("cancelled", 0),
        buckets=[RunBucket(since + width * n, accepted[n], failed[n]) for n in range(BUCKETS)],
        versions=[VersionRuns(name, *counts) for name, counts in versions.items()],
        pace=pace_of(tx, workflow, since=since, looked_at=LOOKED_AT_MAX),
    )
