"""Which runs an address asks for: the parameters that lists and counts of runs share."""

from datetime import datetime
from typing import Annotated

from fastapi import Depends

from veltrix.domain.states import RunState
from veltrix.operations.runs.query import RunQuery, RunsFilter
from veltrix.web.requests import IdText, ParameterText


async def _wanted(
    state: RunState | None = None,
    workflow: ParameterText = None,
    queue: ParameterText = None,
    key: ParameterText = None,
    event: IdText | None = None,
    fingerprint: ParameterText = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> RunQuery:
    return RunQuery.from_json(
        RunsFilter(
            state=state,
            workflow=workflow,
            queue=queue,
            key=key,
            event=event,
            fingerprint=fingerprint,
            since=since,
            until=until,
        )
    )


WantedRuns = Annotated[RunQuery, Depends(_wanted)]
