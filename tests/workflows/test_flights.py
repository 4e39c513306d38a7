"""What a late flight is owed, and that it is booked once."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, read_runs
from tests.support.hands import TestHands
from veltrix.store.transactions import transaction
from workflows.flights import Flight, compensate_delay, metadata, owed


@pytest.mark.parametrize(
    ("miles", "minutes", "cents"),
    [
        (100, None, 0),
        (100, -20, 0),
        (100, 179, 0),
        (100, 180, 25_000),
        (932, 180, 25_000),
        (933, 180, 40_000),
        (2_174, 600, 40_000),
        (2_175, 239, 30_000),
        (2_175, 240, 60_000),
    ],
)
def test_compensation_follows_distance_and_delay(
    miles: int, minutes: int | None, cents: int
) -> None:
    assert owed(Flight(miles, minutes))[0] == cents


@pytest.fixture
def hands(engine: Engine) -> Iterator[TestHands]:
    with transaction(engine) as tx:
        metadata.create_all(tx)
    hands = TestHands(engine, [compensate_delay])
    yield hands
    hands.close()


def test_a_list_of_flights_is_booked_one_row_each(engine: Engine, hands: TestHands) -> None:
    data = '{"distance":733,"arr_delay":200,"carrier":"UA"}'
    run_ids = add_runs(engine, 120, workflow="compensate_delay", queue="flights", data=data)

    outcomes = hands.run(run_ids)

    assert outcomes == dict.fromkeys(run_ids, "succeeded")
    with transaction(engine) as tx:
        booked = tx.execute(
            text("select count(*), sum(cents), min(reason) from flight_compensations")
        )
        assert booked.one() == (120, 120 * 25_000, "late, short")
    assert read_runs(engine, run_ids[:1], "outcome") == [(25_000,)]


def test_a_flight_booked_before_is_not_booked_again(engine: Engine, hands: TestHands) -> None:
    data = '{"distance":733,"arr_delay":null}'
    run_ids = add_runs(engine, 1, workflow="compensate_delay", queue="flights", data=data)
    with transaction(engine) as tx:
        tx.execute(
            text("insert into flight_compensations select sender_id, 0, 'by hand' from events")
        )

    outcomes = hands.run(run_ids)

    assert outcomes == {run_ids[0]: "waiting"}, "the primary key refuses it: an attempt failed"
    with transaction(engine) as tx:
        rows = tx.execute(text("select reason from flight_compensations")).all()
        errors = tx.execute(text("select step, type from failed_attempts")).all()
    assert rows == [("by hand",)]
    assert errors == [("book", "IntegrityError")]
