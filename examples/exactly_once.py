"""A `@transaction` step: its changes and the record that it is done are one commit."""

from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, Text
from sqlalchemy.orm import Session

from veltrix import Event, transaction, workflow

metadata = MetaData()
bookings = Table(
    "example_bookings",
    metadata,
    Column("order_id", Text, primary_key=True),
    Column("cents", Integer, nullable=False),
)


@transaction
def book(session: Session, order_id: str, cents: int) -> int:
    """Booked once, whatever dies. The engine gives the session, and commits."""
    session.execute(bookings.insert().values(order_id=order_id, cents=cents))
    return cents


@workflow(on="examples.order.settled", queue="examples")
async def settle(event: Event[dict[str, Any]]) -> int:
    """Book an order; the workflow leaves the session out."""
    return await book(event.data["order"], event.data["cents"])
