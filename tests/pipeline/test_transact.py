"""Transactional steps take effect exactly once, whatever fails."""

import threading
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.hands import TestHands
from tests.support.wait import until
from veltrix import Event, StepFailed, step, transaction, workflow
from veltrix.pipeline.relay import due_rows
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import transaction as open_transaction

calls: list[str] = []
NAMES = ("commit", "rollback", "go on", "plain")


@pytest.fixture(autouse=True)
def _effects(engine: Engine) -> None:
    calls.clear()
    with open_transaction(engine) as tx:
        tx.execute(text("create table effects (id text, amount int)"))
        tx.execute(text("create table stock (id int primary key, left_over int)"))
        tx.execute(text("insert into stock values (1, 1000)"))


def effects(engine: Engine) -> list[str]:
    with open_transaction(engine) as tx:
        return list(tx.execute(text("select id from effects order by id")).scalars())


@transaction(retries=0)
def book(session: Session, what: str) -> str:
    calls.append(what)
    session.execute(text("insert into effects values (:id, 1)"), {"id": what})
    return what


@transaction(retries=0)
def take_one(session: Session) -> int:
    statement = "update stock set left_over = left_over - 1 where id = 1 returning left_over"
    return int(session.execute(text(statement)).scalar_one())


@workflow(name="fulfil")
async def booking(event: Event[Any]) -> str:
    booked: str = await book(event.data)
    return booked


def test_the_effect_and_its_record_are_one_commit(engine: Engine) -> None:
    run_ids = [add_runs(engine, 1, data=f'"{n:03}"')[0] for n in range(120)]
    hands = TestHands(engine, [booking])

    outcomes = hands.run(run_ids)

    assert set(outcomes.values()) == {"succeeded"}
    assert effects(engine) == [f"{n:03}" for n in range(120)]
    with open_transaction(engine) as tx:
        assert tx.execute(text(f"select count(*) from {JOURNAL_OF} j")).scalar_one() == 120
    hands.close()


def test_a_failing_step_leaves_no_effect_and_its_neighbours_theirs(engine: Engine) -> None:
    @transaction(retries=0)
    def book_and_fail(session: Session, what: str) -> None:
        session.execute(text("insert into effects values (:id, 1)"), {"id": what})
        if what == "b":
            raise ValueError("no")
        if what == "c":
            session.execute(text("insert into stock values (1, 1)"))

    @workflow(name="fulfil")
    async def failing(event: Event[Any]) -> str:
        try:
            await book_and_fail(event.data)
        except StepFailed as failed:
            return failed.type
        return "fine"

    run_ids = [add_runs(engine, 1, data=f'"{what}"')[0] for what in "abcd"]
    hands = TestHands(engine, [failing])

    outcomes = hands.run(run_ids)

    assert set(outcomes.values()) == {"succeeded"}
    rows = {row.key: row.outcome for row in read_runs(engine, run_ids, "id::text as key, outcome")}
    assert [rows[run_id] for run_id in run_ids] == [
        "fine", "ValueError", IntegrityError.__name__, "fine",
    ]  # fmt: skip
    assert effects(engine) == ["a", "d"]
    hands.close()


def test_an_authors_own_commit_or_rollback_does_not_break_the_promise(engine: Engine) -> None:
    @transaction(retries=0)
    def meddle(session: Session, what: str) -> None:
        session.execute(text("insert into effects values (:id, 1)"), {"id": what})
        if what == "commit":
            session.commit()
            raise ValueError("after its commit")
        if what == "rollback":
            session.rollback()
            session.execute(text("insert into effects values ('after', 1)"))
            raise ValueError("after its rollback")
        if what == "go on":
            session.rollback()
            session.execute(text("insert into effects values ('gone on', 1)"))

    @workflow(name="fulfil")
    async def meddling(event: Event[Any]) -> None:
        await meddle(event.data)

    run_ids = [add_runs(engine, 1, data=f'"{what}"')[0] for what in NAMES]
    hands = TestHands(engine, [meddling])

    outcomes = hands.run(run_ids)

    ends = [outcomes[run_id] for run_id in run_ids]
    assert ends == ["failed", "failed", "succeeded", "succeeded"]
    assert effects(engine) == ["gone on", "plain"]
    hands.close()


def test_a_zombies_transaction_has_no_effect(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1, data='"z"')
    zombie, living = TestHands(engine, [booking]), TestHands(engine, [booking])
    batch = zombie.claim([run_id])
    change_runs(engine, [run_id], "state = 'queued', lease_token = null, due_at = now()")

    assert living.run([run_id]) == {run_id: "succeeded"}
    assert zombie.execute(batch) == {run_id: "lost"}
    assert effects(engine) == ["z"]
    assert calls == ["z"], "the lost run's code did not even run"
    zombie.close()
    living.close()


def test_a_list_that_meets_a_locked_row_goes_on_one_by_one(engine: Engine) -> None:
    @workflow(name="fulfil")
    async def taking(event: Event[Any]) -> int:
        left: int = await take_one()
        return left

    run_ids = add_runs(engine, 20)
    hands = TestHands(engine, [taking])
    batch = hands.claim(run_ids)
    locker = engine.connect()
    locker.execute(text("update stock set left_over = left_over where id = 1"))
    unlock = threading.Timer(0.3, locker.rollback)
    unlock.start()

    outcomes = hands.execute(batch)

    assert set(outcomes.values()) == {"succeeded"}
    with open_transaction(engine) as tx:
        left = tx.execute(text("select left_over from stock")).scalar_one()
    assert left == 980
    unlock.join()
    locker.close()
    hands.close()


@pytest.mark.parametrize("runs", [1, 3])
def test_a_step_that_takes_longer_than_a_lease_loses_no_run(engine: Engine, runs: int) -> None:
    """Nobody renews what its transaction locks: when it ends, the relay would be there first."""
    rescued: list[str] = []

    @transaction(retries=0)
    def book_slowly(session: Session, what: str) -> str:
        until(lambda: read_runs(engine, run_ids[-1:], "due_in")[0][0] < 0, what="the lease's end")
        session.execute(text("insert into effects values (:id, 1)"), {"id": what})
        return what

    @step(retries=0)
    def rescue() -> None:
        with open_transaction(engine) as tx:
            found = due_rows.scan(
                tx, [], hold_s=8.0, hold_s_max=300.0, poison_crashes_max=3, rescue=["orders"]
            )
        rescued.extend(found.rescued if found is not None else [])

    @workflow(name="fulfil")
    async def slow(event: Event[Any]) -> None:
        await book_slowly(str(event.event_id))
        await rescue()

    run_ids = add_runs(engine, runs)
    hands = TestHands(engine, [slow], hold_s=1.0)

    outcomes = hands.run(run_ids)

    assert rescued == []
    assert list(outcomes.values()) == ["succeeded"] * runs
    hands.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_lost_around_the_commit_loses_and_doubles_nothing(
    engine: Engine, when: str
) -> None:
    @step(retries=0)
    def cut() -> None:
        with open_transaction(engine) as tx:
            tx.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'tests transactions'"
                    " and datname = current_database()"
                )
            )

    @transaction(retries=0)
    def book_cut(session: Session, what: str) -> str:
        calls.append(what)
        session.execute(text("insert into effects values (:id, 1)"), {"id": what})
        if when == "before" and len(calls) == 1:
            cut.function()
        return what

    @workflow(name="fulfil")
    async def cutting(event: Event[Any]) -> str:
        first: str = await book_cut("one")
        if when == "after":
            await cut()
        second: str = await book_cut("two")
        return first + second

    (run_id,) = add_runs(engine, 1)
    hands = TestHands(engine, [cutting])

    assert hands.run([run_id]) == {run_id: "succeeded"}
    assert effects(engine) == ["one", "two"]
    hands.close()
