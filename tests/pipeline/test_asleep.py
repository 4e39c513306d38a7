"""A branch that sleeps or backs off goes on beside the others, in the same claim."""

import asyncio
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands
from tests.support.due_runs import add_runs, change_runs, read_runs
from veltrix import Event, gather, sleep, step, workflow

done: list[str] = []
PATIENCE = 2_000  # of looks, 5 ms each


@step(retries=0)
def awake() -> None:
    done.append("awake")


@step(retries=0)
async def awake_async() -> None:
    done.append("awake")


@step(retries=1, backoff_s=0.05)
def at_second_go() -> None:
    done.append("tried")
    if len(done) == 1:
        raise ValueError("not yet")
    done.append("awake")


@step(retries=0)
def look(number: int) -> bool:
    asyncio.run(asyncio.sleep(0.005))
    return "awake" in done


@step(retries=0)
async def await_it() -> bool:
    for _ in range(PATIENCE):
        if "awake" in done:
            return True
        await asyncio.sleep(0.005)
    return False


async def busy() -> bool:
    for number in range(PATIENCE):
        if await look(number):
            return True
    return False


async def in_flight() -> bool:
    return bool(await await_it())


async def sleeps() -> None:
    await sleep(0.05)
    await awake()


async def sleeps_async() -> None:
    await sleep(0.05)
    await awake_async()


async def backs_off() -> None:
    await at_second_go()


@pytest.mark.parametrize("other", [busy, in_flight], ids=lambda one: one.__name__)
@pytest.mark.parametrize("branch", [sleeps, sleeps_async, backs_off], ids=lambda one: one.__name__)
def test_a_pause_that_is_over_goes_on_while_another_branch_works(
    engine: Engine, hands: Hands, branch: Any, other: Any
) -> None:
    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> bool:
        _, seen = await gather(branch(), other())
        return bool(seen)

    done.clear()
    (run_id,) = add_runs(engine, 1)

    assert hands(flow).run([run_id]) == {run_id: "succeeded"}
    (row,) = read_runs(engine, [run_id], "outcome")
    assert row.outcome is True


def test_a_hundred_pauses_of_other_lengths_end_in_order(engine: Engine, hands: Hands) -> None:
    @step(retries=0)
    def arrive(number: int) -> None:
        done.append(str(number))

    ends: dict[str, float] = {}

    async def one(number: int) -> None:
        ends[str(number)] = monotonic() + 0.1 + number / 100
        await sleep(0.1 + number / 100)
        await arrive(number)

    @step(retries=0)
    async def until_all() -> None:
        for _ in range(PATIENCE):
            if len(done) == 100:
                return
            await asyncio.sleep(0.005)

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> None:
        await gather(until_all(), *(one(number) for number in reversed(range(100))))

    done.clear()
    (run_id,) = add_runs(engine, 1)

    assert hands(flow).run([run_id]) == {run_id: "succeeded"}
    # The last began first; where the machine stood still between two beginnings they may meet.
    assert sorted(done, key=int) == [str(number) for number in range(100)]
    assert all(ends[one] < ends[next_] + 0.05 for one, next_ in pairwise(done))


def test_a_run_that_may_begin_nothing_more_is_not_looked_at_again_and_again(
    engine: Engine, hands: Hands
) -> None:
    """Its pause is over, but it is cancelled: it waits for what is in flight, at rest."""
    run_ids = add_runs(engine, 1)

    @step(retries=0)
    async def long() -> None:
        await asyncio.sleep(1.0)

    @step(retries=0)
    def cancel() -> None:
        change_runs(engine, run_ids, "cancel_requested_at = now()")

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> None:
        await gather(long(), cancel(), sleeps())

    done.clear()
    child = hands(flow)
    looks, finished = [0], child.async_steps.finished

    def counted(timeout_s: float = 0.0) -> Any:
        looks[0] += 1
        return finished(timeout_s)

    child.async_steps.finished = counted  # type: ignore[method-assign]

    assert child.run(run_ids) == dict.fromkeys(run_ids, "cancelled")
    assert 2 < looks[0] < 100
    assert done == []
