"""The second release: a queue is renamed, and a workflow has other steps and starts at nothing.

Open runs of the first that are past its first step do not fit: they wait until it is back.
"""

from typing import Any

from veltrix.authoring.workflows import workflow
from veltrix.domain.events import Event
from veltrix.prove.load import release_a
from veltrix.prove.load.workflows import PREFIX, QUEUE, Order, touch

MOVED_QUEUE = "prove-moved"

moving: Any = workflow(name="prove_moving", on=f"{PREFIX}moving", queue=MOVED_QUEUE)(
    release_a.moving.function
)


@workflow(name="prove_turning", queue=QUEUE)
async def turning(_event: Event[Order]) -> int:
    """No pause any more, and no event that starts it."""
    await touch()
    await touch()
    return 2
