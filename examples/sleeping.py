"""`sleep` holds no worker and survives crashes and deploys: minutes or months."""

from typing import Any

from veltrix import Event, now, sleep, step, workflow


@step
async def remind(customer: str) -> str:
    """Send the mail."""
    return f"told {customer}"


@workflow(on="examples.cart.left", queue="examples")
async def remind_later(event: Event[dict[str, Any]]) -> dict[str, str | float]:
    """Remind a customer after a while."""
    since = now()
    await sleep(event.data["after_s"])
    slept_s = (now() - since).total_seconds()
    return {"said": await remind(event.data["customer"]), "slept_s": slept_s}
