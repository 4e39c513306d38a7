"""A ledger in use is split into days: nobody notices, nothing is lost, and it can be undone."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.roles import make_roles
from tests.support.settled import hold, settle
from tests.support.wait import until
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import balance
from veltrix.operations.history.days import Moving
from veltrix.operations.replays.move import replay
from veltrix.operations.runs.cancel import cancel
from veltrix.store import schema
from veltrix.store.history import days, split
from veltrix.store.transactions import make_engine, open_autocommit, transaction

PLACE = "select state, tableoid::regclass::text from runs order by id"


@pytest.fixture
def whole(empty_url: str) -> Iterator[Engine]:
    """A ledger of the newest schema, not split."""
    schema.upgrade(empty_url, schema.head())
    engine = make_engine(empty_url, application="tests", connections_max=6)
    yield engine
    engine.dispose()


def ask(engine: Engine, sql: str) -> list[tuple[object, ...]]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def places(engine: Engine) -> Counter[tuple[object, ...]]:
    return Counter(ask(engine, PLACE))


def fill(engine: Engine) -> dict[str, str]:
    """One run in each state; its id by that."""
    succeeded, failed, cancelled, queued, running = add_runs(engine, 5)
    for run_id, state in ((succeeded, "succeeded"), (failed, "failed"), (cancelled, "cancelled")):
        settle(engine, [run_id], state)
    hold(engine, [running])
    (waiting,) = add_runs(engine, 1, delay_s=3_600)
    return {
        "succeeded": succeeded,
        "failed": failed,
        "cancelled": cancelled,
        "queued": queued,
        "running": running,
        "waiting": waiting,
    }


def test_what_ends_after_the_split_is_in_its_life_and_what_ended_before_is_moved(
    whole: Engine,
) -> None:
    fill(whole)
    assert {table for _, table in places(whole)} == {"runs"}

    split.split(whole)

    assert {table for _, table in places(whole)} == {"runs_open"}
    assert Moving(whole).once() == 3
    fill(whole)
    assert places(whole) == {
        ("queued", "runs_open"): 2,
        ("running", "runs_open"): 2,
        ("waiting", "runs_open"): 2,
        ("failed", "runs_failed"): 2,
        ("succeeded", "runs_ended_first"): 2,
        ("cancelled", "runs_ended_first"): 2,
    }
    books = balance(whole)
    assert (books.runs.started, books.runs.open, books.unaccounted) == (12, 6, 0)


def test_a_ledger_is_split_while_events_are_accepted_and_settled(whole: Engine) -> None:
    """Four threads do what apis, workers and relays do; each reads and writes all the time."""
    stop, done = Event(), Counter[str]()

    def work(name: str) -> None:
        while not stop.is_set():
            settle(whole, add_runs(whole, 3, queue=name), "succeeded")
            done[name] += 1

    with ThreadPoolExecutor() as threads:
        working = [threads.submit(work, name) for name in "abcd"]
        try:
            until(lambda: len(done) == 4, 20, "each thread to work")
            steps: list[str] = []
            split.split(whole, steps.append)
            before = Counter(done)
            until(lambda: all(done[n] > before[n] + 2 for n in "abcd"), 20, "each to go on")
        finally:
            stop.set()
    for one in working:
        one.result()

    assert len(steps) == 8
    with open_autocommit(whole) as tx:
        assert split.is_split(tx)
    Moving(whole).once()
    assert set(places(whole)) == {("succeeded", "runs_ended_first")}
    books = balance(whole)
    assert books.runs.started == books.runs.succeeded == 3 * sum(done.values())
    assert (books.unaccounted, books.runs.open) == (0, 0)


def test_a_split_waits_for_a_long_reader_and_nobody_waits_for_the_split(whole: Engine) -> None:
    add_runs(whole, 1)
    with ThreadPoolExecutor() as threads, whole.connect() as reader:
        reader.execute(text("select count(*) from events"))
        splitting = threads.submit(split.split, whole)
        tries = "select 1 from pg_stat_activity where query like 'alter table events%add %'"
        until(lambda: ask(whole, tries), what="the split to be held up")
        settle(whole, add_runs(whole, 3), "succeeded")
        assert not splitting.done()
        reader.rollback()
        splitting.result(timeout=60)

    assert ask(whole, "select count(*) from events") == [(4,)]


def test_a_split_that_fails_leaves_nothing_that_refuses_events(
    whole: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "TRIES_MAX", 2)
    monkeypatch.setattr(split, "PAUSE_S", 0.01)
    with whole.connect() as reader:
        reader.execute(text("lock table journal in row exclusive mode"))
        with pytest.raises(split.SplitHeldUp, match="look for long transactions"):
            split.split(whole)

    assert ask(whole, "select conname from pg_constraint where conname like '%\\_before'") == []
    with open_autocommit(whole) as tx:
        assert days.look(tx).unsplit == ("journal", "failed_attempts", "runs")
    settle(whole, add_runs(whole, 2), "failed")

    split.split(whole)  # goes on where it ended

    settle(whole, add_runs(whole, 2), "failed")
    assert places(whole) == {("failed", "runs_open"): 2, ("failed", "runs_failed"): 2}


def test_a_check_that_a_killed_split_left_is_made_anew_before_it_refuses_anything(
    whole: Engine,
) -> None:
    with transaction(whole) as tx:
        tx.execute(
            text(
                "alter table events add constraint events_before"
                " check (id < '00000000-0000-0000-0000-000000000001') not valid"
            )
        )
    with open_autocommit(whole) as tx:
        assert days.look(tx).checked == ("events",)

    split.split(whole)

    settle(whole, add_runs(whole, 2), "succeeded")
    with open_autocommit(whole) as tx:
        found = days.look(tx)
    assert (found.checked, found.late, found.unsplit) == ((), (), ())


def test_code_from_before_the_split_goes_on_and_its_runs_are_moved(engine: Engine) -> None:
    """It does not name `life`: what it settles stays, and is found where it is."""
    run_ids = add_runs(engine, 3)
    change_runs(engine, run_ids[:2], "state = 'succeeded', due_at = null, settled_at = now()")
    assert places(engine) == {("succeeded", "runs_open"): 2, ("queued", "runs_open"): 1}

    assert Moving(engine).once() == 2

    assert places(engine) == {("succeeded", "runs_ended_first"): 2, ("queued", "runs_open"): 1}
    assert Moving(engine).once() == 0


def test_a_failed_run_that_is_replayed_is_open_again_and_ends_in_its_day(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    settle(engine, [run_id], "failed")

    assert replay(engine, [run_id], ReplayMode.FAILED_STEP, "again", "ops")
    assert places(engine) == {("queued", "runs_open"): 1}
    settle(engine, [run_id], "succeeded")

    assert places(engine) == {("succeeded", "runs_ended_first"): 1}
    books = balance(engine)
    assert (books.runs.succeeded, books.runs.failed, books.unaccounted) == (1, 0, 0)


def test_who_waits_for_a_run_that_is_moved_meanwhile_asks_again(engine: Engine) -> None:
    """PostgreSQL refuses to follow a row into another table: an error that is tried again."""
    (run_id,) = add_runs(engine, 1)
    with ThreadPoolExecutor() as threads, engine.connect() as settling:
        settling.execute(
            text(
                "update runs set state = 'succeeded', life = life_of('succeeded'), due_at = null,"
                " settled_at = now() where life = 0 and id = cast(:id as uuid)"
            ),
            {"id": run_id},
        )
        cancelling = threads.submit(cancel, engine, [run_id], "no", "ops")
        waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock'"
        until(lambda: ask(engine, waits), what="the cancel to wait")
        settling.commit()
        cancelling.result(timeout=20)

    assert read_runs(engine, [run_id], "state") == [("succeeded",)]


def test_the_way_back_before_anything_was_dropped(empty_url: str) -> None:
    schema.upgrade(empty_url)
    engine = make_engine(empty_url, application="tests", connections_max=5)
    runs = fill(engine)
    with open_autocommit(engine) as tx:
        days.make(tx, days.today(tx))
    engine.dispose()

    schema.downgrade(empty_url, "0016")

    assert ask(engine, "select count(*) from runs") == [(len(runs),)]
    assert ask(engine, "select count(*) from events") == [(len(runs),)]
    engine.dispose()
    schema.upgrade(empty_url)
    settle(engine, [runs["queued"]], "succeeded")
    assert balance(engine).unaccounted == 0
    engine.dispose()


def test_the_platforms_role_makes_days_and_drops_none(database_url: str) -> None:
    roles = make_roles(database_url)
    as_app = make_engine(roles.app, application="tests")
    with open_autocommit(as_app) as tx:
        after = days.today(tx).toordinal() + 4
        assert days.make(tx, type(days.today(tx)).fromordinal(after))
        for statement in (
            "drop table events_first",
            "alter table events detach partition events_first",
        ):
            with pytest.raises(Exception, match="must be owner"):
                tx.exec_driver_sql(statement)
    settle(as_app, add_runs(as_app, 2), "failed")
    as_read = make_engine(roles.read, application="tests")
    with open_autocommit(as_read) as tx, pytest.raises(Exception, match="permission denied"):
        days.make(tx, days.today(tx))
