"""Workflows that can never run, beside one that can: refused at start, each with its sentence."""

from typing import TYPE_CHECKING, Any

import msgspec
import pydantic

from veltrix import Event, workflow

if TYPE_CHECKING:
    from nowhere import Parcel  # type: ignore[import-not-found]


class Client:
    """Nothing says what it is made of."""


class Order(msgspec.Struct):
    id: str


class Line(pydantic.BaseModel):
    sku: str


@workflow()
async def good(event: Event[list[Line] | None]) -> int:
    """Works, and its input has a schema."""
    return len(event.data or [])


@workflow()
async def of_a_client(event: Event[dict[str, Client]]) -> None:
    """Nothing can make a Client."""


@workflow()
async def of_a_parcel(event: "Event[Parcel]") -> None:
    """Nobody knows a Parcel when this runs."""


order: Any = workflow()


@order
async def of_an_order(event: Order) -> None:
    """It is given an event."""
