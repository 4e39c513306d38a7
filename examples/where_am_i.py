"""`current()` tells code its run, event, step and attempt, and has a logger that writes them."""

from typing import Any

from veltrix import Event, current, step, workflow


@step
def check(order: str) -> dict[str, str | int | None]:
    """Where this step runs."""
    here = current()
    here.log.info("order.checked", extra={"order": order})  # with run_id, workflow, step
    return {"run": here.run_id, "step": here.step, "attempt": here.attempt}


@workflow(on="examples.order.doubted", queue="examples")
async def inspect(event: Event[dict[str, Any]]) -> dict[str, str | int | None]:
    """Look at an order."""
    return await check(event.data["order"])
