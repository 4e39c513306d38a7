"""Each layout holds the same history, and each way to use it leaves the same rows behind."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from bench.layout_turns import Measured, _settled, session_of
from bench.layouts import LAYOUTS, SLEEPERS, WAYS, Layout, Way, make, seed

EVENTS = 4_000
RUN = "0199a000-0000-7000-8000-000000000001"
NOW = datetime.now(UTC)


def laid_out(url: str, layout: Layout) -> None:
    with session_of(url, is_hot=False) as tx:
        make(tx, layout, NOW)
        seed(tx, layout, EVENTS, NOW)


def states(url: str, layout: Layout) -> dict[str, int]:
    with session_of(url, is_hot=False) as tx:
        tx.execute(text(f"set search_path = {layout.name}"))
        rows = tx.execute(text(f"select state, count(*) from {layout.reads} group by state"))
        return {state: count for state, count in rows}  # noqa: C416 - rows are no pairs to mypy


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_history_is_the_same_in_each_layout_and_in_no_default(
    database_url: str, layout: Layout
) -> None:
    laid_out(database_url, layout)

    asleep = EVENTS // SLEEPERS
    assert states(database_url, layout) == {"succeeded": EVENTS - asleep, "waiting": asleep}
    with session_of(database_url, is_hot=False) as tx:
        for table in layout.split:
            asked = text(f"select count(*) from {layout.name}.{table}_else")
            assert tx.execute(asked).scalar_one() == 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_way_settles_what_it_accepts_and_finds_what_there_was(
    database_url: str, way: Way
) -> None:
    laid_out(database_url, way.layout)
    measured = Measured(database_url, way, NOW, EVENTS)

    measured.warm()

    settled = EVENTS - EVENTS // SLEEPERS + measured.accepted
    assert measured.accepted > 3_000
    assert states(database_url, way.layout) == {
        "succeeded": settled,
        "waiting": EVENTS // SLEEPERS,
    }
    assert measured.beside()["locks of a claim"] >= 4
    measured.close()


def test_a_statement_that_has_changed_is_not_measured_as_if_it_had_not() -> None:
    statement, _ = _settled([RUN], RUN)
    bounded = next(way for way in WAYS if way.name == "days, bounds")

    assert "%(low)s" in bounded.of("settle", statement)
    with pytest.raises(AssertionError, match="the statement has changed"):
        bounded.of("settle", "select 1")
