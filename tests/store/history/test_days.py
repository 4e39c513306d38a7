"""Days are made ahead; one that is late loses nothing, and one in somebody's way waits."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from tests.support.due_runs import add_runs
from tests.support.settled import settle
from veltrix.domain.ids import first_id_at
from veltrix.operations.books.books import balance
from veltrix.operations.history.days import make_ahead_once
from veltrix.store.history import days
from veltrix.store.transactions import is_locked, make_engine, open_autocommit, transaction


def look(engine: Engine) -> days.Days:
    with open_autocommit(engine) as tx:
        return days.look(tx)


def parts(engine: Engine, table: str) -> list[str]:
    with open_autocommit(engine) as tx:
        found = tx.execute(
            text("select part::text from parts_of(to_regclass(:table)) order by low, 1"),
            {"table": table},
        )
        return list(found.scalars())


def settled_on(engine: Engine, day: datetime, count: int) -> list[str]:
    """Runs of events whose ids are of that day, as if they had been accepted then."""
    run_ids = add_runs(engine, count)
    first = first_id_at(day)[:14]
    with transaction(engine) as tx:
        for statement in (
            "update events set id = (:first || right(id::text, 22))::uuid where id = any(:ids)",
            """update runs set id = (:first || right(id::text, 22))::uuid,
            event_id = (:first || right(event_id::text, 22))::uuid where event_id = any(:ids)""",
        ):
            events = [UUID(id_[:-6] + "000000") for id_ in run_ids]
            tx.execute(text(statement), {"first": first, "ids": events})
    moved = [first + id_[-22:] for id_ in run_ids]
    settle(engine, moved, "succeeded")
    return moved


def test_days_are_made_ahead_once(engine: Engine) -> None:
    assert look(engine).ahead == 2  # what the split left room for

    assert make_ahead_once(engine) == days.AHEAD_DAYS - 1

    assert look(engine).ahead == days.AHEAD_DAYS + 1
    assert make_ahead_once(engine) == 0
    today = look(engine).today
    names = [f"{today + timedelta(days=n):%Y%m%d}" for n in range(2, days.AHEAD_DAYS + 1)]
    for table in days.PARTS:
        wanted = {f"{table}_first", f"{table}_default", *(f"{table}_{name}" for name in names)}
        assert set(parts(engine, table)) == wanted


def test_two_relays_make_days_at_once(engine: Engine, database_url: str) -> None:
    others = [make_engine(database_url, application="tests") for _ in range(4)]
    with ThreadPoolExecutor() as threads:
        made = list(threads.map(make_ahead_once, others))

    assert sum(made) == days.AHEAD_DAYS - 1
    assert look(engine).ahead == days.AHEAD_DAYS + 1


def test_rows_of_a_day_that_was_not_there_are_found_and_moved_when_it_is_made(
    engine: Engine,
) -> None:
    day = datetime.combine(look(engine).today, datetime.min.time(), UTC) + timedelta(days=3)
    settled_on(engine, day + timedelta(hours=5), 4)
    assert look(engine).late == ("events", "runs_ended")
    assert balance(engine).unaccounted == 0

    assert make_ahead_once(engine) > 0

    assert look(engine).late == ()
    name = f"{day:%Y%m%d}"
    with open_autocommit(engine) as tx:
        for table in ("events", "runs_ended"):
            assert tx.execute(text(f"select count(*) from {table}_{name}")).scalar_one() == 4
    assert balance(engine).unaccounted == 0


def test_a_day_of_which_there_are_many_rows_beside_is_not_made_and_the_next_ones_are(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(days, "LATE_ROWS_MAX", 3)
    day = datetime.combine(look(engine).today, datetime.min.time(), UTC) + timedelta(days=3)
    settled_on(engine, day + timedelta(hours=5), 4)

    make_ahead_once(engine)

    found = look(engine)
    assert (found.late, found.ahead) == (("events", "runs_ended"), days.AHEAD_DAYS)
    assert f"events_{day + timedelta(days=1):%Y%m%d}" in parts(engine, "events")
    assert f"events_{day:%Y%m%d}" not in parts(engine, "events")
    assert f"journal_{day:%Y%m%d}" in parts(engine, "journal")


def test_a_day_in_the_way_of_a_long_writer_is_left_to_the_next_look(engine: Engine) -> None:
    with engine.connect() as writer:
        writer.execute(text("lock table events_default in row exclusive mode"))
        with open_autocommit(engine) as tx, pytest.raises(DBAPIError) as caught:
            days.make(tx, look(engine).today + timedelta(days=3))
        assert is_locked(caught.value)
        assert make_ahead_once(engine) == 0
        settle(engine, add_runs(engine, 2), "succeeded")  # nobody waits behind it
        writer.rollback()

    assert make_ahead_once(engine) == days.AHEAD_DAYS - 1


@pytest.mark.parametrize("far", [-10, 100])
def test_no_day_is_made_that_nobody_needs(engine: Engine, far: int) -> None:
    with open_autocommit(engine) as tx, pytest.raises(DBAPIError, match="no day can be made"):
        days.make(tx, look(engine).today + timedelta(days=far))
