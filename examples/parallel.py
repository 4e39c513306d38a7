"""Steps run side by side with `gather`; the workflow goes on when all of them have ended."""

from typing import Any

from veltrix import Event, gather, step, workflow


@step
async def price(shop: str, sku: str) -> int:
    """What a shop asks for it, in cents."""
    return len(shop) * 100 + len(sku)


@workflow(on="examples.price.asked", queue="examples")
async def cheapest(event: Event[dict[str, Any]]) -> int:
    """The lowest price of three shops."""
    sku = event.data["sku"]
    prices: list[int] = await gather(*(price(shop, sku) for shop in ("north", "south", "online")))
    return min(prices)
