"""A step that fails now and then is tried again, and holds no worker in the pauses between.

curl $API/v1/events -H 'content-type: application/cloudevents+json' -d '{"specversion": "1.0",
  "id": "1", "source": "/examples", "type": "examples.parcel.packed", "data": {"parcel": "p-1"}}'
"""

from typing import Any

from veltrix import Event, NonRetryable, current, idempotency_key, step, workflow


class CarrierBusy(Exception):
    """Ask again later."""


class NoSuchParcel(NonRetryable):
    """Asking again does not help: final at once."""


@step(retries=5, backoff_s=0.05, timeout_s=10)
async def book(parcel: str) -> str:
    """The number of the booking; the carrier is busy for the first two attempts."""
    if not parcel:
        raise NoSuchParcel("a parcel has a name")
    if (current().attempt or 0) < 3:
        raise CarrierBusy("no answer")
    # The same key in every attempt: the carrier can tell a second call from a second parcel.
    return f"booking {idempotency_key()}"


@workflow(on="examples.parcel.packed", queue="examples")
async def ship(event: Event[dict[str, Any]]) -> str:
    """Ship a parcel."""
    return await book(event.data["parcel"])
