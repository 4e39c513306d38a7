"""A worker that shuts down gives back at once what has work to do, whatever else of it sleeps."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, journal_of
from tests.support.due_runs import add_runs, read_runs
from tests.support.hands import TestHands
from veltrix import Event, gather, sleep, step, transaction, workflow
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines.execution import Execution
from veltrix.pipeline.execute.settle import settle

FAR_S = 3_600.0


@step(retries=0)
async def quick() -> None:
    pass


@step(retries=3, backoff_s=FAR_S, backoff_s_max=FAR_S)
def in_vain() -> None:
    raise ValueError("not yet")


async def two_steps() -> None:
    await quick()
    await quick()


async def short_sleeps() -> None:
    for _ in range(200):
        await sleep(0.02)
        await quick()


async def far() -> None:
    await sleep(FAR_S)


async def backs_off() -> None:
    await in_vain()


def leave_after(writes: int, child: TestHands, batch: Batch) -> Callable[[list[Execution]], Any]:
    """A write that, when it is the one of this number, is followed by SIGTERM."""
    count = [0]

    def write(ready: list[Execution]) -> list[str]:
        lost = settle(child.link, batch.token, "tests/1", ready)
        count[0] += 1
        batch.is_leaving = batch.is_leaving or count[0] == writes
        return lost

    return write


@pytest.mark.parametrize("other", [far, backs_off], ids=lambda one: one.__name__)
@pytest.mark.parametrize("writes", [2, 4])
@pytest.mark.parametrize("branch", [two_steps, short_sleeps], ids=lambda one: one.__name__)
def test_a_run_with_work_to_do_goes_back_at_once(
    engine: Engine, hands: Hands, branch: Any, writes: int, other: Any
) -> None:
    @step(retries=0)
    async def lasting() -> None:
        await asyncio.sleep(0.3)

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> None:
        await gather(other(), branch(), lasting())

    run_ids = add_runs(engine, 1)
    child = hands(flow, jitter=lambda: 0.9)
    batch = child.claim(run_ids)
    child.engine.execute(batch, leave_after(writes, child, batch))

    ((state, due_in),) = read_runs(engine, run_ids, "state, due_in")
    assert state in {"queued", "waiting"}
    is_done = branch is two_steps and len(journal_of(engine, run_ids[0])) >= 3 + (other is far)
    assert batch.is_leaving or is_done
    assert (due_in > 60.0) == is_done


def test_transactional_steps_that_were_not_begun_go_back_at_once(
    engine: Engine, hands: Hands
) -> None:
    ran: list[Batch] = []

    @transaction(retries=0)
    def once(_session: Any) -> None:
        ran.append(batch)
        batch.is_leaving = True

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> None:
        await gather(far(), once())

    run_ids = add_runs(engine, 3)
    child = hands(flow)
    batch = child.claim(run_ids)
    child.execute(batch)

    rows = read_runs(engine, run_ids, "state")
    assert len(ran) == 1
    assert sorted(row.state for row in rows) == ["queued", "queued", "waiting"]
