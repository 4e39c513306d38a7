"""A release: one type, one queue. `deploy_b` is the next one."""

from typing import Any

from veltrix import Event, sleep, step, workflow


@step
def nothing() -> None:
    """Is done."""


@workflow(name="rolled", on="roll.a", queue="q1")
async def rolled(event: Event[Any]) -> str:
    """Pauses as its event says."""
    await nothing()
    await sleep(event.data or 0)
    return "A"
