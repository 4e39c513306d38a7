"""Orders: reserve the goods, charge the customer, ship; and give back what cannot be shipped."""

from typing import Annotated, Literal

import msgspec

from veltrix import Event, NonRetryable, StepFailed, gather, idempotency_key, random, step, workflow


class Order(msgspec.Struct, frozen=True):
    """The data of `shop.order.placed`."""

    id: str
    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1)]
    cents: Annotated[int, msgspec.Meta(ge=0)]
    country: str = "US"


class Fulfilment(msgspec.Struct, frozen=True):
    """The outcome: what the customer service sees."""

    status: Literal["shipped", "refunded"]
    payment: str
    parcel: str | None = None
    reason: str | None = None


class CardDeclined(NonRetryable):
    """The bank said no; asking again does not change that."""


class CarrierBusy(Exception):
    """Ask again later."""


class NotServed(NonRetryable):
    """The carrier does not go there."""


class Carrier:
    """Stands for a carrier's web API: busy now and then, whoever asks."""

    def __init__(self, busy_share: float = 0.2) -> None:
        self.busy_share = busy_share

    async def book(self, order_id: str, country: str, key: str) -> str:
        """A parcel; the same one for the same key. Raises CarrierBusy and NotServed."""
        if country not in {"CA", "US"}:
            raise NotServed(f"no parcels to {country}")
        if random() < self.busy_share:
            raise CarrierBusy(f"no answer for order {order_id}")
        return f"parcel-{key}"


carrier = Carrier()
CARD_LIMIT_CENTS = 1_000_000


@step
def reserve(sku: str, quantity: int) -> str:
    """Put the goods aside."""
    return f"{quantity} x {sku}"


@step
def release(reservation: str) -> None:
    """Put them back."""


@step(retries=5, backoff_s=0.5, timeout_s=10)
async def charge(order_id: str, cents: int) -> str:
    """The bank takes a key once, so a second attempt does not charge a second time."""
    if cents > CARD_LIMIT_CENTS:
        raise CardDeclined(f"order {order_id}: {cents} cents")
    return f"payment-{idempotency_key()}"


@step(retries=10, backoff_s=0.5, backoff_s_max=60)
async def refund(payment: str) -> None:
    """Give the money back."""


@step(retries=12, backoff_s=0.2, backoff_s_max=60, timeout_s=10)
async def ship(order_id: str, country: str) -> str:
    """Ask the carrier until it has time."""
    return await carrier.book(order_id, country, idempotency_key())


@workflow(on="shop.order.placed", queue="orders", key=lambda event: event.data.id)
async def fulfil_order(event: Event[Order]) -> Fulfilment:
    """An order ends shipped, or refunded and with its goods back; a declined card fails the run."""
    order = event.data
    reservation = await reserve(order.sku, order.quantity)
    try:
        payment = await charge(order.id, order.cents)
    except StepFailed:
        await release(reservation)
        raise
    try:
        parcel = await ship(order.id, order.country)
    except StepFailed as failed:
        await gather(refund(payment), release(reservation))
        return Fulfilment("refunded", payment, reason=failed.message)
    return Fulfilment("shipped", payment, parcel)
