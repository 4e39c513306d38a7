"""Flights: what passengers of a late flight are owed, booked once per flight.

The table is not the platform's: `veltrix demo` makes it, elsewhere `metadata.create_all(engine)`.
"""

import msgspec
from sqlalchemy import Column, Integer, MetaData, Table, Text
from sqlalchemy.orm import Session

from veltrix import Event, transaction, workflow

metadata = MetaData()
compensations = Table(
    "flight_compensations",
    metadata,
    Column("flight_id", Text, primary_key=True),
    Column("cents", Integer, nullable=False),
    Column("reason", Text, nullable=False),
)


class Flight(msgspec.Struct, frozen=True):
    """What this workflow reads of a `flights.flight.closed` event."""

    distance: int  # miles
    arr_delay: int | None  # minutes; None: cancelled, diverted or not recorded


def owed(flight: Flight) -> tuple[int, str]:
    """Cents per passenger, and why: the tiers of EU regulation 261/2004, articles 6 and 7.

    From 180 minutes late: 250.00 up to 1,500 km (932 miles), 400.00 up to 3,500 km (2,174 miles),
    600.00 beyond, of which half if under 240 minutes. A flight without a recorded arrival is owed
    nothing here: its claim is decided by a person.
    """
    if flight.arr_delay is None:
        return 0, "no arrival"
    if flight.arr_delay < 180:
        return 0, "in time"
    if flight.distance <= 932:
        return 25_000, "late, short"
    if flight.distance <= 2_174:
        return 40_000, "late, medium"
    return (60_000 if flight.arr_delay >= 240 else 30_000), "late, long"


@transaction
def book(session: Session, flight_id: str, cents: int, reason: str) -> None:
    """One row per flight, committed with the record that this step is done."""
    row = {"flight_id": flight_id, "cents": cents, "reason": reason}
    session.execute(compensations.insert(), row)


@workflow(on="flights.flight.closed", queue="flights")
async def compensate_delay(event: Event[Flight]) -> int:
    """Decide and book what is owed for a flight; the cents."""
    cents, reason = owed(event.data)
    await book(event.id, cents, reason)
    return cents
