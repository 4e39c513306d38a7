"""Code of an author can tell where it is, and never depends on how often it is run."""

import threading
from typing import Any

from sqlalchemy import Engine

from tests.support.due_runs import add_runs
from tests.support.hands import TestHands
from veltrix import Current, Event, current, step, workflow

seen: list[Current] = []


@step(retries=0)
def in_a_thread() -> None:
    thread = threading.Thread(target=lambda: seen.append(current()))
    thread.start()
    thread.join()


@step(retries=0)
async def in_a_step() -> None:
    seen.append(current())


@workflow(name="fulfil")
async def tells(event: Event[Any]) -> None:
    seen.append(current())
    await in_a_step()
    await in_a_thread()


def test_a_workflow_and_its_steps_know_their_run(engine: Engine) -> None:
    seen.clear()
    (run_id,) = add_runs(engine, 1)
    hands = TestHands(engine, [tells])
    try:
        assert hands.run([run_id]) == {run_id: "succeeded"}
    finally:
        hands.close()

    assert {one.run_id for one in seen[:2]} == {run_id}
    assert {one.workflow for one in seen[:2]} == {"fulfil"}
    assert all(one.event_id for one in seen[:2])
    assert [(one.step, one.attempt) for one in seen[:2]] == [(None, None), ("in_a_step", 1)]
    assert {one.log.name for one in seen[:2]} == {"veltrix.workflows.fulfil"}
    assert len(seen) == 3  # threads see their step in a worker's children only


def test_outside_of_a_run_there_is_nothing_to_know_and_a_logger_all_the_same() -> None:
    found = current()

    assert (found.run_id, found.event_id, found.workflow) == (None, None, None)
    assert (found.step, found.attempt) == (None, None)
    assert found.log.name == "veltrix.workflows"
