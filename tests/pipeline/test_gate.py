"""Before each step: is the run over, cancelled, late, or somebody else's? Runs take turns."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, claimed_ago, let_time_pass
from tests.support.due_runs import add_runs, change_runs, read_runs
from veltrix import Event, gather, sleep, step, workflow

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def spend(seconds: float) -> None:
    """What takes time: a step's own work."""
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        pass


@step(retries=0)
def work(number: int) -> int:
    calls.append(number)
    spend(0.02)
    return number


@step(retries=0)
async def work_async(number: int) -> int:
    calls.append(number)
    spend(0.02)  # it keeps the event loop, so those beside it have not begun
    await asyncio.sleep(0)
    return number


async def all_of(one: Any, count: int) -> int:
    return len(await gather(*(one(number) for number in range(count))))


@pytest.mark.parametrize("one", [work, work_async], ids=lambda one: one.name)
def test_no_step_begins_after_the_limit_of_its_workflow(
    engine: Engine, hands: Hands, one: Any
) -> None:
    @workflow(name="fulfil", timeout_s=0.3)
    async def flow(event: Event[Any]) -> int:
        return await all_of(one, 200)

    (run_id,) = add_runs(engine, 1)

    assert hands(flow).run([run_id]) == {run_id: "failed"}
    assert len(calls) < 40
    (row,) = read_runs(engine, [run_id], "reason, outcome")
    assert row.reason == "timeout"
    assert "longer than the 0.3 s of its workflow" in row.outcome["message"]


@pytest.mark.parametrize("one", [work, work_async], ids=lambda one: one.name)
def test_no_step_begins_after_a_cancel_was_seen(engine: Engine, hands: Hands, one: Any) -> None:
    @step(retries=0)
    def cancel() -> None:
        change_runs(engine, run_ids, "cancel_requested_at = now()")

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> int:
        return len(await gather(cancel(), *(one(number) for number in range(200))))

    run_ids = add_runs(engine, 1)

    assert hands(flow).run(run_ids) == {run_ids[0]: "cancelled"}
    assert len(calls) < 40


@pytest.mark.parametrize("one", [work, work_async], ids=lambda one: one.name)
def test_no_step_begins_of_a_run_that_is_known_to_be_lost(
    engine: Engine, hands: Hands, one: Any
) -> None:
    @step(retries=0)
    def lose() -> None:
        batch.lose(run_ids)  # as its watch does when a lease could not be renewed

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> int:
        return len(await gather(lose(), *(one(number) for number in range(200))))

    run_ids = add_runs(engine, 1)
    child = hands(flow)
    batch = child.claim(run_ids)

    assert child.execute(batch) == {run_ids[0]: "lost"}
    assert len(calls) < 40


def test_no_step_begins_after_the_outcome(engine: Engine, hands: Hands) -> None:
    @step(retries=0)
    def unstorable() -> object:
        return object()

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> int:
        return len(await gather(work(0), unstorable(), *(work(number) for number in range(200))))

    (run_id,) = add_runs(engine, 1)

    assert hands(flow).run([run_id]) == {run_id: "failed"}
    assert calls == [0]


def test_a_wide_run_lets_its_neighbours_have_their_turn(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        await (all_of(work, 100) if event.data == "wide" else work(event.data))

    wide = add_runs(engine, 1, data='"wide"')
    narrow = [add_runs(engine, 1, data=f'"narrow {n}"')[0] for n in range(3)]
    hands(flow).run(sorted(wide + narrow))

    assert {"narrow 0", "narrow 1", "narrow 2"} <= set(calls[:5])


def test_a_sleeping_run_is_over_at_its_limit_and_not_claimed_before(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil", timeout_s=30)
    async def flow(event: Event[Any]) -> None:
        await sleep(3600)
        calls.append("slept on")

    (run_id,) = add_runs(engine, 1)
    child = hands(flow)
    assert child.run([run_id]) == {run_id: "waiting"}
    assert 25 < read_runs(engine, [run_id], "due_in")[0][0] <= 30

    claimed_ago(engine, run_id, 30.0)
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")
    assert child.run([run_id]) == {run_id: "failed"}
    assert read_runs(engine, [run_id], "reason")[0].reason == "timeout"
    assert calls == []


def test_a_run_in_a_back_off_is_over_at_its_limit(engine: Engine, hands: Hands) -> None:
    @step(retries=5, backoff_s=600, backoff_s_max=600)
    def flaky() -> None:
        calls.append("tried")
        raise ConnectionError("away")

    @workflow(name="fulfil", timeout_s=30)
    async def flow(event: Event[Any]) -> None:
        await flaky()

    (run_id,) = add_runs(engine, 1)
    child = hands(flow)
    assert child.run([run_id]) == {run_id: "waiting"}
    assert 25 < read_runs(engine, [run_id], "due_in")[0][0] <= 30

    claimed_ago(engine, run_id, 31.0)
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")
    assert child.run([run_id]) == {run_id: "failed"}
    assert read_runs(engine, [run_id], "reason")[0].reason == "timeout"
    assert calls == ["tried"]


def test_a_pause_that_is_over_but_for_a_moment_costs_no_other_claim(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> str:
        await sleep(3600.002)
        return "slept"

    (run_id,) = add_runs(engine, 1)
    child = hands(flow)
    child.run([run_id])
    let_time_pass(engine)
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")

    assert child.run([run_id]) == {run_id: "succeeded"}
