"""The canary's workflow, which every worker has: one step, so that the journal is used, too."""

from typing import Any

from veltrix.authoring.steps import step
from veltrix.authoring.workflows import Workflow, workflow
from veltrix.domain.events import CANARY_WORKFLOW, Event

VERSION = "built-in"


@step(name=f"{CANARY_WORKFLOW}.sing")
async def _sing() -> bool:
    return True


async def _canary(_event: Event[Any]) -> bool:
    """Whatever is in it: it fails for nothing but the way it came."""
    return await _sing()


# Not made a member of the registry: nobody starts it by name, and no release is another for it.
CANARY: Workflow[Any, bool] = workflow(name=CANARY_WORKFLOW)(_canary)
