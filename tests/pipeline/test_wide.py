"""Runs of any width and length, with real writes and a pause after which all of it is read back."""

from typing import Any

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, let_time_pass
from tests.support.due_runs import add_runs, change_runs, read_runs
from veltrix import Event, gather, sleep, step, workflow

ROUNDS, WIDE = 1_000, 10_000


@step(retries=0)
def act(number: int) -> int:
    return number


@step(retries=0)
async def act_async(number: int) -> int:
    return number


@pytest.mark.parametrize("one", [act, act_async], ids=lambda one: one.name)
def test_a_gather_of_10000_after_1000_others_and_again_after_a_pause(
    engine: Engine, hands: Hands, one: Any
) -> None:
    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> int:
        total = 0
        for number in range(ROUNDS):
            total += sum(await gather(one(number), one(number)))
        total += len(await gather(*(one(number) for number in range(WIDE))))
        await sleep(60)
        total += len(await gather(*(one(number) for number in range(WIDE))))
        return total

    (run_id,) = add_runs(engine, 1)
    child = hands(flow, step_timeout_s=60.0)
    assert child.run([run_id]) == {run_id: "waiting"}
    let_time_pass(engine)
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")

    assert child.run([run_id]) == {run_id: "succeeded"}
    (row,) = read_runs(engine, [run_id], "outcome")
    assert row.outcome == ROUNDS * (ROUNDS - 1) + 2 * WIDE
