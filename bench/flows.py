"""The workflow under load: one journalled step."""

from typing import Any

from app import Event, step, workflow


@step
def double(number: int) -> int:
    """As little work as a step can do."""
    return number * 2


@workflow(on="bench.event", queue="bench")
async def bench_flow(event: Event[Any]) -> int:
    """One step per event."""
    return await double(event.data["n"])
