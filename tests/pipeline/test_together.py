"""Transactional steps of many runs share a transaction without savepoints while all succeed."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from tests.support.deeds import (
    QuickHands,
    add,
    calls,
    deeds,
    do,
    doing,
    effects,
    make_tables,
    names,
    put,
    transactions,
)
from tests.support.hands import PooledHands
from veltrix import Event, step, workflow
from veltrix.pipeline.execute.transactional.together import Together
from veltrix.prove.sabotage.catalog import SABOTAGES
from veltrix.store.transactions import transaction as open_transaction


@pytest.fixture(autouse=True)
def _tables(engine: Engine) -> None:
    make_tables(engine)


def test_steps_that_succeed_are_one_transaction_of_at_most_250(engine: Engine) -> None:
    run_ids = add(engine, *names(260))
    hands = QuickHands(engine)

    outcomes = hands.run(run_ids)

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert sorted(transactions(engine).values()) == [10, 250]
    assert set(calls.values()) == {1}


def test_a_transaction_ends_when_its_steps_have_taken_long_enough(engine: Engine) -> None:
    now = iter(n / 100 for n in range(10_000))  # each look at the clock takes 10 ms
    run_ids = add(engine, *names(40))
    hands = PooledHands(engine, [doing], monotonic=lambda: next(now))

    outcomes = hands.run(run_ids)

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert len(transactions(engine)) > 4
    assert set(calls.values()) == {1}


def test_a_step_that_fails_leaves_nothing_and_is_one_attempt(engine: Engine) -> None:
    def fail(session: Session) -> None:
        put(session, "failed")
        raise ValueError("no")

    deeds["bad"] = fail
    run_ids = add(engine, *names(20), "bad", *(f"after {n}" for n in range(20)))
    hands = QuickHands(engine)

    outcomes = hands.run(run_ids)

    hands.close()
    assert Counter(outcomes.values()) == {"succeeded": 40, "failed": 1}
    assert len(effects(engine)) == 40
    assert "failed" not in effects(engine)
    assert calls["bad"] == 2
    assert calls["after 0"] == 1
    with open_transaction(engine) as tx:
        attempts = tx.execute(text("select attempt, type from failed_attempts")).all()
    assert [tuple(row) for row in attempts] == [(1, "ValueError")]


def test_steps_like_one_that_failed_go_with_savepoints_for_a_while(engine: Engine) -> None:
    def fail(_session: Session) -> None:
        raise ValueError("no")

    deeds["bad"] = fail
    hands = QuickHands(engine)
    hands.run(add(engine, "a", "bad"))
    shared = []

    for turn in range(6):
        calls.clear()
        hands.run(add(engine, f"{turn} a", f"{turn} b", "bad"))
        shared.append(calls["bad"] == 2)

    hands.close()
    assert shared == [False] * 4 + [True, False]


def test_what_a_deferred_constraint_refuses_is_found_before_anything_goes_on(
    engine: Engine,
) -> None:
    with open_transaction(engine) as tx:
        tx.execute(text("create table parents (id text primary key)"))
        tx.execute(
            text(
                "alter table effects add constraint known foreign key (id) references parents (id)"
                " deferrable initially deferred"
            )
        )
        tx.execute(
            text("insert into parents select to_char(n, 'FM000') from generate_series(0,9) n")
        )
    after: list[str] = []

    @step(retries=0)
    def go_on(what: str) -> None:
        after.append(what)

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> None:
        await do(event.data)
        await go_on(event.data)

    hands = QuickHands(engine, [flow])

    outcomes = hands.run(add(engine, *names(10), "orphan"))

    hands.close()
    assert Counter(outcomes.values()) == {"succeeded": 10, "failed": 1}
    assert sorted(after) == names(10)
    assert effects(engine) == names(10)


def test_a_run_whose_lease_is_lost_does_not_run_beside_others(engine: Engine) -> None:
    run_ids = add(engine, "a", "b", "c")
    hands = QuickHands(engine)
    batch = hands.claim(run_ids)
    with open_transaction(engine) as tx:
        tx.execute(
            text("update runs set state = 'queued', lease_token = null where id = :id"),
            {"id": run_ids[1]},
        )

    outcomes = hands.execute(batch)

    hands.close()
    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded", "lost", "succeeded"]
    assert effects(engine) == ["a", "c"]
    assert calls["b"] == 0


def test_a_cancel_between_two_steps_is_kept_to(engine: Engine) -> None:
    """What the gate refuses does not run, and those before and after it do."""
    run_ids = add(engine, "a", "b", "c")
    hands = QuickHands(engine)
    batch = hands.claim(run_ids)

    def cancel(session: Session) -> None:
        batch.executions[run_ids[1]].is_cancel_requested = True
        put(session, "a")

    deeds["a"] = cancel

    outcomes = hands.execute(batch)

    hands.close()
    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded", "cancelled", "succeeded"]
    assert effects(engine) == ["a", "c"]


def test_a_connection_that_is_lost_is_no_attempt_of_a_neighbour(engine: Engine) -> None:
    """Who ended it shows when each has its savepoint."""

    def end(session: Session) -> None:
        put(session, "ended")
        session.execute(text("select pg_terminate_backend(pg_backend_pid())"))

    deeds["end"] = end
    run_ids = add(engine, *names(5), "end", "after")
    hands = QuickHands(engine)

    outcomes = hands.run(run_ids)

    hands.close()
    assert [outcomes[run_id] for run_id in run_ids[:5]] == ["succeeded"] * 5
    assert outcomes[run_ids[6]] == "succeeded"
    assert effects(engine) == [*names(5), "after"]
    with open_transaction(engine) as tx:
        of = tx.execute(text("select distinct run_id::text from failed_attempts")).scalars().all()
    assert of == [run_ids[5]]


def test_a_lock_that_others_hold_keeps_no_one_waiting_for_his_neighbours(engine: Engine) -> None:
    locker = engine.connect()
    locker.execute(text("update stock set left_over = left_over where id = 1"))

    def take(session: Session) -> None:
        if calls["take"] == 3:  # together, shared, and alone
            locker.rollback()
        session.execute(text("update stock set left_over = left_over - 1 where id = 1"))

    deeds["take"] = take
    hands = QuickHands(engine)

    outcomes = hands.run(add(engine, *names(3), "take"))

    hands.close()
    locker.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert calls["take"] == 3


def test_without_the_roll_back_a_failed_step_would_leave_its_effect(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `veltrix prove` switches on, and has to see."""
    monkeypatch.setattr(Together, "_fail", Together._fail)

    def fail(session: Session) -> None:
        put(session, "failed")
        raise ValueError("no")

    deeds["bad"] = fail
    SABOTAGES["savepoint_left_out"]()
    hands = QuickHands(engine)

    hands.run(add(engine, "a", "bad", "b"))

    hands.close()
    assert effects(engine) == ["a", "b", "failed"]
