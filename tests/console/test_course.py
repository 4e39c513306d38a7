"""The course of a run: what happened, drawn as it happened."""

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.hands import TestHands
from tests.support.wait import until
from veltrix import Event, gather, sleep, step, workflow
from veltrix.authoring.workflows import Workflow
from veltrix.console.run_timeline import Course, Lane, courses_of
from veltrix.operations.runs.read_story import RunStory, story
from veltrix.pipeline.execute import lease_rows
from veltrix.store import crashes
from veltrix.store.crashes import Crash
from veltrix.store.transactions import open_autocommit, transaction

TOKEN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
tries: list[int] = []


@pytest.fixture(autouse=True)
def _no_tries() -> None:
    tries.clear()


@step(retries=0)
async def quote(carrier: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return carrier


@step(retries=2, backoff_s=0.2, backoff_s_max=0.2)
async def charge(amount: int) -> int:
    await asyncio.sleep(0.05)
    tries.append(amount)
    if len(tries) < 3:
        raise ValueError("no")
    return amount


@workflow(name="fulfil")
async def shopping(event: Event[Any]) -> None:
    await gather(quote("dhl", 0.2), quote("ups", 0.3))
    await sleep(0.4)
    await charge(7)


@pytest.fixture
def ran(engine: Engine) -> str:
    """A run of `shopping` that has succeeded, each pause as long as it says."""
    (run_id,) = add_runs(engine, 1)
    run_until_settled(engine, run_id, shopping)
    return run_id


def run_until_settled(engine: Engine, run_id: str, flow: Workflow) -> None:
    hands = TestHands(engine, [flow])
    while hands.run([run_id]) == {run_id: "waiting"}:
        until(lambda: read_runs(engine, [run_id], "due_at <= now() as d")[0].d, what="it is due")
        change_runs(engine, [run_id], "state = 'queued'")
    hands.close()


def told(engine: Engine, run_id: str) -> RunStory:
    with transaction(engine, snapshot=True) as tx:
        found = story(tx, run_id)
    assert found is not None
    return found


def course(engine: Engine, run_id: str) -> Course:
    return courses_of(told(engine, run_id), datetime.now(UTC))[0]


def lanes(found: Course) -> dict[str, Lane]:
    """By label, and position where a step has several."""
    labels = [lane.label for lane in found.lanes]
    return {
        lane.label if labels.count(lane.label) == 1 else f"{lane.label} {lane.detail}": lane
        for lane in found.lanes
    }


def test_parallel_steps_are_drawn_beside_each_other_and_a_sleep_as_itself(
    engine: Engine, ran: str
) -> None:
    drawn = lanes(course(engine, ran))

    dhl, ups = drawn["quote at 1.0.1"], drawn["quote at 1.1.1"]
    assert 0.19 < dhl.took_s < ups.took_s
    assert ups.since < dhl.bars[0].until, "it began while the other went on"
    assert dhl.since < ups.bars[0].until
    slept = drawn["sleep"]
    assert slept.kind == "sleep"
    assert 0.39 < slept.took_s < 2
    assert slept.since >= ups.bars[0].until - timedelta(milliseconds=20)
    assert drawn["charge"].since >= slept.bars[0].until - timedelta(milliseconds=20)


def test_the_attempts_of_a_step_are_one_lane_with_the_pauses_between_them(
    engine: Engine, ran: str
) -> None:
    charged = lanes(course(engine, ran))["charge"]

    assert [bar.kind for bar in charged.bars] == ["failed", "wait", "failed", "wait", "step"]
    assert charged.detail == "at 3, 3 attempts"
    assert all(one.until <= other.since for one, other in pairwise(charged.bars))
    tried = sum((b.until - b.since).total_seconds() for b in charged.bars if b.kind != "wait")
    assert charged.took_s == pytest.approx(tried, abs=0.01), "the attempts, without the pauses"


def test_waiting_for_a_worker_is_neither_work_nor_sleep(engine: Engine, ran: str) -> None:
    found = course(engine, ran)

    waits = next(lane for lane in found.lanes if lane.label == "waiting for a worker")
    assert waits.bars[0].since == found.begins
    others = [
        bar
        for lane in found.lanes
        for bar in lane.bars
        if bar.kind in {"step", "failed", "sleep", "wait"}
    ]
    for wait in waits.bars:
        assert not [b for b in others if b.since < wait.until and wait.since < b.until]


def test_a_sleep_that_goes_on_is_drawn_until_now_and_says_until_when(engine: Engine) -> None:
    @workflow(name="fulfil")
    async def sleeper(event: Event[Any]) -> None:
        await sleep(3600)

    (run_id,) = add_runs(engine, 1)
    hands = TestHands(engine, [sleeper])
    hands.run([run_id])
    hands.close()

    slept = lanes(course(engine, run_id))["sleep"]

    assert "until 2" in slept.detail
    assert slept.took_s < 60


def test_rows_from_before_begins_were_recorded_say_at_most(engine: Engine, ran: str) -> None:
    with transaction(engine) as tx:
        for table in ("journal", "failed_attempts"):
            tx.execute(text(f"update {table} set began_at = null, took_ms = null"))

    drawn = lanes(course(engine, ran))

    assert drawn["charge"].is_at_most
    assert drawn["quote at 1.0.1"].is_at_most
    assert not drawn["sleep"].is_at_most


def test_an_attempt_counts_code_and_a_claim_counts_workers(engine: Engine, ran: str) -> None:
    found = told(engine, ran)

    assert (found.attempt, found.claims) == (1, 4), "once asleep, twice backed off"


def test_an_attempt_of_the_workflows_own_code_is_counted(engine: Engine) -> None:
    @workflow(name="fulfil", retries=1)
    async def broken(event: Event[Any]) -> None:
        raise ValueError("no")

    (run_id,) = add_runs(engine, 1)
    assert told(engine, run_id).attempt == 0
    run_until_settled(engine, run_id, broken)

    found = told(engine, run_id)

    assert (found.state, found.attempt, found.claims) == ("failed", 2, 2)
    drawn = lanes(course(engine, run_id))
    assert [b.kind for b in drawn["the workflow's own code"].bars] == ["failed", "wait", "failed"]


def test_crashes_are_drawn_in_the_lane_of_their_step_and_its_success_after_them(
    engine: Engine,
) -> None:
    @step(retries=0)
    def crash() -> None:
        """It does not, this time."""

    @workflow(name="fulfil")
    async def survivor(event: Event[Any]) -> None:
        await crash()

    (run_id,) = add_runs(engine, 1)
    with open_autocommit(engine) as tx:
        assert lease_rows.claim(tx, TOKEN, "w/1", [(run_id, run_id)], hold_s=8.0)
        died = Crash(run_id=run_id, message="", position="1", step="crash", began=9.9, took_ms=80)
        assert crashes.note(tx, TOKEN, died, now=10.0) == 1
        lease_rows.release(tx, TOKEN, [run_id], 0.0)
    run_until_settled(engine, run_id, survivor)

    found = course(engine, run_id)

    drawn = lanes(found)["crash"]
    assert [bar.kind for bar in drawn.bars] == ["crash", "step"]
    assert drawn.detail == "at 1, 2 attempts"
    waits = next(lane for lane in found.lanes if lane.label == "waiting for a worker")
    assert any(drawn.bars[0].until <= wait.since <= drawn.bars[1].since for wait in waits.bars)
