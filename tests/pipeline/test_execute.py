"""Execute: steps are recorded, resumed and settled; what is finished is never run again."""

import asyncio
import threading
import time
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.pipeline.conftest import Hands, journal_of
from tests.support.due_runs import add_runs, change_runs, read_runs
from veltrix import (
    Event,
    StepFailed,
    gather,
    idempotency_key,
    now,
    random,
    sleep,
    step,
    uuid,
    workflow,
)
from veltrix.store.transactions import transaction

calls: list[Any] = []
DUE_S = "extract(epoch from due_at - now())::float8 as due_s"


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def wake(engine: Engine, run_ids: list[str]) -> None:
    """What the due scan does with a waiting run whose time has come."""
    change_runs(engine, run_ids, "state = 'queued', due_at = now()")


@step(retries=0)
def note(what: str) -> str:
    calls.append(what)
    return what


@step(retries=0)
async def note_later(what: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    calls.append(what)
    return what


@workflow(name="fulfil")
async def two_steps(event: Event[Any]) -> list[str]:
    first = await note("a")
    return [first, await note_later("b")]


def test_a_run_succeeds_with_its_steps_in_the_journal(engine: Engine, hands: Hands) -> None:
    (run_id,) = add_runs(engine, 1)

    outcomes = hands(two_steps).run([run_id])

    assert outcomes == {run_id: "succeeded"}
    assert calls == ["a", "b"]
    assert journal_of(engine, run_id) == [("1", "step", "note"), ("2", "step", "note_later")]
    (row,) = read_runs(engine, [run_id], "state, outcome, due_at, lease_token, settled_at")
    assert row.outcome == ["a", "b"]
    assert (row.state, row.due_at, row.lease_token) == ("succeeded", None, None)
    assert row.settled_at is not None


def test_a_finished_step_is_never_run_again(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def sleeper(event: Event[Any]) -> str:
        first = await note("before")
        await sleep(60)
        return first + await note("after")

    (run_id,) = add_runs(engine, 1)
    batch = hands(sleeper)

    assert batch.run([run_id]) == {run_id: "waiting"}
    (row,) = read_runs(engine, [run_id], f"state, {DUE_S}")
    assert row.state == "waiting"
    assert 59 < row.due_s <= 60
    wake(engine, [run_id])
    assert batch.run([run_id]) == {run_id: "waiting"}, "woken too early, it waits for the rest"
    with transaction(engine) as tx:
        tx.execute(text("update journal set recorded_at = recorded_at - interval '1 minute'"))
    wake(engine, [run_id])
    assert batch.run([run_id]) == {run_id: "succeeded"}
    assert calls == ["before", "after"]


def test_recorded_values_are_the_same_in_a_replay(engine: Engine, hands: Hands) -> None:
    seen: list[tuple[datetime, str, float]] = []

    @workflow(name="fulfil")
    async def valued(event: Event[Any]) -> None:
        seen.append((now(), str(uuid()), random()))
        await sleep(0)
        seen.append((now(), str(uuid()), random()))

    (run_id,) = add_runs(engine, 1)
    batch = hands(valued)
    batch.run([run_id])
    wake(engine, [run_id])
    batch.run([run_id])

    assert seen[0] == seen[1]
    assert seen[2] != seen[0]


def test_branches_of_gather_have_positions_of_their_own(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def branching(event: Event[Any]) -> list[Any]:
        await note("first")

        async def branch(name: str) -> list[str]:
            return [await note_later(f"{name}1", 0.02), await note(f"{name}2")]

        return await gather(branch("x"), note("y"), branch("z"))

    (run_id,) = add_runs(engine, 1)

    outcomes = hands(branching).run([run_id])

    assert outcomes == {run_id: "succeeded"}
    (row,) = read_runs(engine, [run_id], "outcome")
    assert row.outcome == [["x1", "x2"], "y", ["z1", "z2"]]
    assert [position for position, _, _ in journal_of(engine, run_id)] == [
        "1", "2.0.1", "2.0.2", "2.1.1", "2.2.1", "2.2.2",
    ]  # fmt: skip


def test_a_failing_step_is_retried_after_its_back_off_and_then_fails_the_run(
    engine: Engine, hands: Hands
) -> None:
    @step(retries=1, backoff_s=100, backoff_s_max=100)
    def broken() -> None:
        calls.append(idempotency_key())
        raise ValueError("no stock")

    @workflow(name="fulfil")
    async def failing(event: Event[Any]) -> None:
        await broken()

    (run_id,) = add_runs(engine, 1)
    batch = hands(failing)

    assert batch.run([run_id]) == {run_id: "waiting"}
    (row,) = read_runs(engine, [run_id], DUE_S)
    assert 45 < row.due_s <= 100
    assert batch.run([run_id]) == {}, "a late duplicate of a waiting run is not claimed"
    wake(engine, [run_id])
    assert batch.run([run_id]) == {run_id: "waiting"}, "its back-off is not over"
    with transaction(engine) as tx:
        tx.execute(text("update failed_attempts set failed_at = failed_at - interval '2 minutes'"))
    wake(engine, [run_id])
    assert batch.run([run_id]) == {run_id: "failed"}
    assert len(calls) == 2
    assert len(set(calls)) == 1, "every attempt has the same idempotency key"
    (row,) = read_runs(engine, [run_id], "reason, failed_step, fingerprint, outcome")
    assert (row.reason, row.failed_step) == ("error", "broken")
    assert row.outcome == {"type": "ValueError", "message": "no stock"}
    with transaction(engine) as tx:
        attempts = tx.execute(
            text(
                "select attempt, type, message, fingerprint, retry_delay_s is null"
                " from failed_attempts order by id"
            )
        ).all()
    assert [(a[0], a[1], a[2], a[4]) for a in attempts] == [
        (1, "ValueError", "no stock", False),
        (2, "ValueError", "no stock", True),
    ]
    assert {a[3] for a in attempts} == {row.fingerprint}


def test_a_workflow_may_catch_a_failed_step_and_compensate(engine: Engine, hands: Hands) -> None:
    @step(retries=5, non_retryable=(KeyError,))
    def refuse() -> None:
        raise KeyError("x")

    @workflow(name="fulfil")
    async def compensating(event: Event[Any]) -> str:
        try:
            await refuse()
        except StepFailed as failed:
            return await note(f"undo {failed.step} {failed.type}")
        return "no"

    (run_id,) = add_runs(engine, 1)

    assert hands(compensating).run([run_id]) == {run_id: "succeeded"}
    assert calls == ["undo refuse KeyError"]


def test_an_error_of_the_workflows_own_code_is_retried_without_repeating_steps(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil", retries=1)
    async def shaky(event: Event[Any]) -> None:
        await note("once")
        calls.append("code")
        raise RuntimeError("bug")

    (run_id,) = add_runs(engine, 1)
    batch = hands(shaky)

    assert batch.run([run_id]) == {run_id: "waiting"}
    wake(engine, [run_id])
    assert batch.run([run_id]) == {run_id: "failed"}
    assert calls == ["once", "code", "code"]


def test_an_unstorable_output_fails_one_run_of_its_list(engine: Engine, hands: Hands) -> None:
    values: dict[str, Any] = {
        "surrogate": "\ud800", "nan": float("nan"), "object": object(),
        "large": "x" * 200_000, "nul": "\x00 is fine in json", "big": 2**70,
    }  # fmt: skip

    @step(retries=0)
    def give(name: str) -> Any:
        return values[name]

    @workflow(name="fulfil")
    async def giving(event: Event[Any]) -> Any:
        await give(event.data)
        return 1

    names = [*values, "fine", "fine"]
    values["fine"] = "fine"
    run_ids = [add_runs(engine, 1, data=f'"{name}"')[0] for name in names]

    outcomes = hands(giving).run(run_ids)

    for name, run_id in zip(names, run_ids, strict=True):
        expected = "succeeded" if name in ("fine", "nul", "big") else "failed"
        assert outcomes[run_id] == expected, name
    rows = read_runs(engine, run_ids, "state, reason")
    assert [row.reason for row in rows if row.state == "failed"] == ["unstorable"] * 4


def test_error_texts_that_cannot_be_stored_are_cleaned(engine: Engine, hands: Hands) -> None:
    @step(retries=0)
    def broken() -> None:
        raise ValueError("nul \x00 surrogate \udfff " + "long " * 10_000)

    @workflow(name="fulfil")
    async def failing(event: Event[Any]) -> None:
        await broken()

    run_ids = add_runs(engine, 3)

    assert set(hands(failing).run(run_ids).values()) == {"failed"}


def test_a_sync_step_over_its_limit_fails_as_timeout_and_its_neighbours_succeed(
    engine: Engine, hands: Hands
) -> None:
    @step(retries=0, timeout_s=0.2)
    def spin(is_endless: bool) -> None:
        while is_endless:
            pass

    @workflow(name="fulfil")
    async def spinning(event: Event[Any]) -> None:
        await spin(event.data)

    run_ids = [add_runs(engine, 1, data=d)[0] for d in ("false", "true", "false")]

    outcomes = hands(spinning).run(run_ids)

    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded", "failed", "succeeded"]
    (row,) = read_runs(engine, [run_ids[1]], "reason, failed_step")
    assert tuple(row) == ("timeout", "spin")


def test_an_async_step_over_its_limit_fails_as_timeout(engine: Engine, hands: Hands) -> None:
    @step(retries=0, timeout_s=0.1)
    async def hang() -> None:
        await asyncio.sleep(60)

    @workflow(name="fulfil")
    async def hanging(event: Event[Any]) -> None:
        await hang()

    (run_id,) = add_runs(engine, 1)

    assert hands(hanging).run([run_id]) == {run_id: "failed"}
    (row,) = read_runs(engine, [run_id], "reason")
    assert row.reason == "timeout"


def test_a_slow_async_step_delays_none_of_its_neighbours(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def maybe_slow(event: Event[Any]) -> None:
        if event.data:
            await note_later("slow", 1.5)
        await note("fast")

    slow = add_runs(engine, 1, data="true")
    fast = add_runs(engine, 200, data="false")
    batch = hands(maybe_slow)
    claimed = batch.claim(slow + fast)

    outcomes = batch.execute(claimed)

    assert set(outcomes.values()) == {"succeeded"}
    with transaction(engine) as tx:
        spread = tx.execute(
            text(
                "select extract(epoch from max(settled_at) - min(settled_at))::float8,"
                " extract(epoch from max(settled_at) filter (where id <> :slow) - min(claimed_at))"
                "::float8 from runs"
            ),
            {"slow": slow[0]},
        ).one()
    assert spread[0] > 1.0, "the slow one was settled later, by itself"
    assert spread[1] < 1.0, "and the fast ones did not wait for it"


def test_a_run_is_busy_with_its_own_steps_and_not_with_those_of_its_neighbours(
    engine: Engine, hands: Hands
) -> None:
    @step
    def hold(seconds: float) -> None:
        threading.Event().wait(seconds)

    @workflow(name="fulfil")
    async def holding(event: Event[Any]) -> None:
        await hold(event.data)
        await hold(0)
        await note_later("waits for somebody else", 1.0)

    slow, fast = add_runs(engine, 1, data="0.4"), add_runs(engine, 30, data="0")
    claimed = hands(holding).claim(slow + fast)
    hands(holding).execute(claimed)

    busy_s = {run_id: one.busy_s for run_id, one in claimed.executions.items()}
    assert 0.4 <= busy_s[slow[0]] < 1.0
    assert 0 < sum(busy_s[run_id] for run_id in fast) / len(fast) < 0.2


def test_a_run_over_its_workflows_limit_fails(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil", timeout_s=0.05)
    async def long(event: Event[Any]) -> None:
        await note_later("a", 0.03)
        await note_later("b", 0.03)
        await note_later("c", 0.03)

    (run_id,) = add_runs(engine, 1)

    assert hands(long).run([run_id]) == {run_id: "failed"}
    (row,) = read_runs(engine, [run_id], "reason")
    assert row.reason == "timeout"


def test_awaiting_anything_else_is_an_error_that_names_it(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil", retries=0)
    async def wrong(event: Event[Any]) -> None:
        await asyncio.sleep(0)

    (run_id,) = add_runs(engine, 1)

    assert hands(wrong).run([run_id]) == {run_id: "failed"}
    (row,) = read_runs(engine, [run_id], "outcome")
    assert "a workflow can await steps, gather() and sleep()" in row.outcome["message"]


def test_a_journal_that_does_not_match_the_code_is_held_for_the_right_code(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def old(event: Event[Any]) -> None:
        await note("old")
        await sleep(0)

    @workflow(name="fulfil")
    async def new(event: Event[Any]) -> None:
        await note_later("new")

    (run_id,) = add_runs(engine, 1)
    hands(old).run([run_id])
    wake(engine, [run_id])

    assert hands(new).run([run_id]) == {run_id: "waiting"}
    wake(engine, [run_id])
    assert hands(new, deploy_grace_s=0.0).run([run_id]) == {run_id: "failed"}
    assert calls == ["old"]
    (row,) = read_runs(engine, [run_id], "reason, outcome")
    assert row.reason == "journal_mismatch"
    assert "position 1 was step 'note'" in row.outcome["message"]


def _elapse(engine: Engine) -> None:
    with transaction(engine) as tx:
        tx.execute(text("update journal set recorded_at = recorded_at - interval '1 hour'"))
        tx.execute(text("update failed_attempts set failed_at = failed_at - interval '1 hour'"))


def test_each_deploy_has_its_grace(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def new(event: Event[Any]) -> None:
        await note("new")
        await sleep(60)
        await sleep(60)

    @workflow(name="fulfil")
    async def old(event: Event[Any]) -> None:
        await note_later("old")

    (run_id,) = add_runs(engine, 1)
    right, wrong = hands(new), hands(old)
    for each in (right, wrong, right, wrong, wrong):  # right goes on, so wrong has its time again
        assert each.run([run_id]) == {run_id: "waiting"}
        if each is right:
            _elapse(engine)
        wake(engine, [run_id])
    _elapse(engine)

    assert wrong.run([run_id]) == {run_id: "failed"}


def test_each_version_that_cannot_go_on_with_a_run_has_its_grace(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def old(event: Event[Any]) -> None:
        await note("old")
        await sleep(60)

    @workflow(name="fulfil")
    async def new(event: Event[Any]) -> None:
        await note_later("new")

    (run_id,) = add_runs(engine, 1)
    for each in (hands(old), hands(new, code_version="2"), hands(new, code_version="3")):
        _elapse(engine)
        assert each.run([run_id]) == {run_id: "waiting"}
        wake(engine, [run_id])
    _elapse(engine)

    assert hands(new, code_version="3").run([run_id]) == {run_id: "failed"}


def test_other_arguments_than_recorded_are_a_mismatch(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def unstable(event: Event[Any]) -> None:
        await note(str(time.monotonic()))
        await sleep(0)

    (run_id,) = add_runs(engine, 1)
    batch = hands(unstable)
    batch.run([run_id])
    wake(engine, [run_id])

    assert batch.run([run_id]) == {run_id: "waiting"}
    (row,) = read_runs(engine, [run_id], "state")
    assert row.state == "waiting"


def test_an_unknown_workflow_is_held_and_then_failed(engine: Engine, hands: Hands) -> None:
    (run_id,) = add_runs(engine, 1, workflow="gone")

    assert hands(two_steps).run([run_id]) == {run_id: "waiting"}
    wake(engine, [run_id])
    assert hands(two_steps, deploy_grace_s=0.0).run([run_id]) == {run_id: "failed"}
    (row,) = read_runs(engine, [run_id], "reason")
    assert row.reason == "unknown_workflow"


def test_a_zombies_write_changes_nothing(engine: Engine, hands: Hands) -> None:
    (run_id,) = add_runs(engine, 1)
    zombie, living = hands(two_steps), hands(two_steps)
    batch = zombie.claim([run_id])
    change_runs(engine, [run_id], "state = 'queued', lease_token = null, due_at = now()")

    assert living.run([run_id]) == {run_id: "succeeded"}
    before = read_runs(engine, [run_id], "state, settled_at, outcome")
    assert zombie.execute(batch) == {run_id: "lost"}
    assert read_runs(engine, [run_id], "state, settled_at, outcome") == before
    assert len(journal_of(engine, run_id)) == 2


def test_cancel_is_honoured_between_steps(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def cancelled(event: Event[Any]) -> None:
        await note("first")
        await note("second")

    (run_id,) = add_runs(engine, 1)
    batch = hands(cancelled)
    claimed = batch.claim([run_id])
    change_runs(engine, [run_id], "cancel_requested_at = now()")

    assert batch.execute(claimed) == {run_id: "cancelled"}
    assert calls == ["first"]
    (row,) = read_runs(engine, [run_id], "state, reason")
    assert tuple(row) == ("cancelled", "requested")


def test_a_cancel_requested_before_a_sleep_does_not_wait_for_its_end(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def sleeping(event: Event[Any]) -> None:
        change_runs(engine, [run_id], "cancel_requested_at = now()")
        await sleep(3600)

    (run_id,) = add_runs(engine, 1)

    hands(sleeping).run([run_id])

    (row,) = read_runs(engine, [run_id], "state, reason, due_at")
    assert tuple(row) == ("cancelled", "requested", None)


def test_input_that_does_not_fit_fails_its_run_as_invalid_input(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def typed(event: Event[list[int]]) -> int:
        return sum(event.data)

    good, bad = add_runs(engine, 1, data="[1, 2]"), add_runs(engine, 1, data='["x"]')

    outcomes = hands(typed).run(good + bad)

    assert outcomes == {good[0]: "succeeded", bad[0]: "failed"}
    (row,) = read_runs(engine, bad, "reason, outcome")
    assert row.reason == "invalid_input"
    assert "int" in row.outcome["message"]


def test_when_skips_and_key_is_kept(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil", when=lambda e: e.data > 1, key=lambda e: f"k{e.data}")
    async def choosy(event: Event[Any]) -> None:
        await note("ran")

    one, two = add_runs(engine, 1, data="1"), add_runs(engine, 1, data="2")

    outcomes = hands(choosy).run(one + two)

    assert set(outcomes.values()) == {"succeeded"}
    assert calls == ["ran"]
    assert [tuple(r) for r in read_runs(engine, one + two, "key, reason")] == [
        ("k1", "skipped"), ("k2", None),
    ]  # fmt: skip


def test_when_is_asked_once_and_not_of_a_run_that_has_begun(engine: Engine, hands: Hands) -> None:
    is_open = True

    @workflow(name="fulfil", when=lambda _: is_open)
    async def sells(event: Event[Any]) -> None:
        await note("charge")
        await sleep(60)
        await note("deliver")

    run_ids = add_runs(engine, 1)
    hands(sells).run(run_ids)
    is_open = False
    _elapse(engine)
    wake(engine, run_ids)

    assert hands(sells).run(run_ids) == {run_ids[0]: "succeeded"}
    assert calls == ["charge", "deliver"]
    assert read_runs(engine, run_ids, "reason")[0].reason is None


def test_leaving_gives_back_what_is_between_steps(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def leaving(event: Event[Any]) -> None:
        await note("first")
        claimed.is_leaving = True
        await note("second")

    (run_id,) = add_runs(engine, 1)
    batch = hands(leaving)
    claimed = batch.claim([run_id])

    assert batch.execute(claimed) == {run_id: "queued"}
    assert calls == ["first"]
    assert hands(leaving).run([run_id])[run_id] in ("succeeded", "queued")
    assert calls == ["first", "second"]


def test_an_outage_while_writing_repeats_no_step(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def interrupted(event: Event[Any]) -> str:
        await note("first")
        await cut()
        return await note("last")

    @step(retries=0)
    def cut() -> None:
        calls.append("cut")
        with transaction(engine) as tx:
            tx.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'tests hand' and datname = current_database()"
                )
            )

    (run_id,) = add_runs(engine, 1)

    assert hands(interrupted).run([run_id]) == {run_id: "succeeded"}
    assert calls == ["first", "cut", "last"]
