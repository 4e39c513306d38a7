"""The first release of two workflows whose code and queue change while their runs are open."""

from veltrix.authoring.flow import sleep
from veltrix.authoring.workflows import workflow
from veltrix.domain.events import Event
from veltrix.prove.load.workflows import PREFIX, QUEUE, Order, stumble, touch

MOVING_QUEUE = "prove-moving"


@workflow(name="prove_moving", on=f"{PREFIX}moving", queue=MOVING_QUEUE)
async def moving(event: Event[Order]) -> int:
    """Its queue has another name in other releases."""
    await touch()
    await sleep(event.data.seconds)
    await stumble(event.data.times)
    return 2


@workflow(name="prove_turning", on=f"{PREFIX}turning", queue=QUEUE)
async def turning(event: Event[Order]) -> int:
    """It has other steps, and starts at nothing, in release B."""
    await touch()
    await sleep(event.data.seconds)
    await touch()
    return 2
