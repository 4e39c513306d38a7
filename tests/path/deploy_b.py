"""The release after `deploy_a`: a type more, and another queue; it goes on where that was."""

from typing import Any

from veltrix import Event, sleep, step, workflow


@step
def nothing() -> None:
    """Is done."""


@workflow(name="rolled", on=["roll.a", "roll.b"], queue="q2")
async def rolled(event: Event[Any]) -> str:
    """Pauses as its event says."""
    await nothing()
    await sleep(event.data or 0)
    return "B"
