"""`key` names the business object of a run, and `when` says whether there is anything to do."""

from typing import Any

from veltrix import Event, step, workflow


@step
def pay_back(order: str, cents: int) -> str:
    """Give the money back."""
    return f"{cents} cents for {order}"


@workflow(
    on=["examples.order.cancelled", "examples.refund.*"],
    when=lambda event: event.data["cents"] > 0,  # false: the run succeeds as `skipped`
    key=lambda event: event.data["order"],  # `veltrix runs --key o-1` finds it
    queue="examples",
)
async def refund(event: Event[dict[str, Any]]) -> str:
    """Refund an order."""
    return await pay_back(event.data["order"], event.data["cents"])
