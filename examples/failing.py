"""A run that fails is a row that stays; when the cause is gone it is replayed from the failed step.

veltrix runs --state failed --workflow report
veltrix replay run RUN_ID --reason "the file has come"
"""

from pathlib import Path
from typing import Any

import httpx

from veltrix import Event, step, workflow


@step
def prepare(name: str) -> str:
    """Finished before the failure: a replay keeps its output and does not run it again."""
    return f"report of {name}"


@step(retries=0)
def read(file: str) -> str:
    """Fails while the file is not there."""
    return Path(file).read_text()


@workflow(on="examples.report.asked", queue="examples")
async def report(event: Event[dict[str, Any]]) -> str:
    """A title and the text of a file."""
    title = await prepare(event.data["name"])
    return f"{title}: {await read(event.data['file'])}"


def replay(api: httpx.Client, run_id: str, reason: str) -> None:
    """As the command does; raises httpx.HTTPStatusError if the run has not failed."""
    asked = {"from": "failed_step", "reason": reason}
    api.post(f"/v1/runs/{run_id}/replay", json=asked).raise_for_status()
