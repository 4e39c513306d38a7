"""The canary's workflow, which every worker has: one step, so that the journal is used, too."""

from veltrix.authoring.steps import step
from veltrix.authoring.workflows import Workflow, workflow
from veltrix.domain.events import CANARY_WORKFLOW, Event

VERSION = "built-in"


@step(name=f"{CANARY_WORKFLOW}.sing")
async def _sing(number: int) -> int:
    return number


async def _canary(event: Event[dict[str, int]]) -> int:
    return await _sing(event.data["number"])


# Not made a member of the registry: nobody starts it by name, and no release is another for it.
CANARY: Workflow[dict[str, int], int] = workflow(name=CANARY_WORKFLOW)(_canary)
