"""Outside a run: what is awaited just runs, and fails as it would in a run."""

import asyncio
from typing import Any

import pytest

from veltrix import Event, NonRetryable, StepFailed, gather, step, workflow

attempts: list[str] = []


class CardDeclined(NonRetryable):
    """No money."""


@step
def charge(cents: int) -> str:
    """Fails above 100."""
    attempts.append(f"charge {cents}")
    if cents > 100:
        raise CardDeclined(f"{cents} cents")
    return "paid"


@step
async def charge_async(cents: int) -> str:
    """The same on an event loop, by way of the other."""
    await asyncio.sleep(0)
    return await charge(cents)


async def paid_or_refused(cents: int) -> str:
    """What a workflow does that compensates."""
    try:
        return await charge(cents)
    except StepFailed as failed:
        return f"{failed.step}: {failed.type}: {failed.message}"


def test_a_step_runs_and_gives_its_result() -> None:
    assert asyncio.run(paid_or_refused(50)) == "paid"


def test_a_failed_step_is_the_error_that_a_workflow_catches_to_compensate() -> None:
    attempts.clear()

    assert asyncio.run(paid_or_refused(500)) == "charge: CardDeclined: 500 cents"
    assert attempts == ["charge 500"], "there are no retries in a unit test"


def test_the_steps_own_exception_is_its_cause() -> None:
    async def run() -> None:
        await charge(500)

    with pytest.raises(StepFailed) as caught:
        asyncio.run(run())

    assert isinstance(caught.value.__cause__, CardDeclined)


def test_a_step_inside_a_step_is_a_part_of_it_and_keeps_its_exception() -> None:
    async def run() -> None:
        await charge_async(500)

    with pytest.raises(StepFailed) as caught:
        asyncio.run(run())

    assert (caught.value.step, caught.value.type) == ("charge_async", "CardDeclined")


def test_one_failed_branch_does_not_mark_its_neighbours() -> None:
    async def run() -> list[object]:
        return await gather(charge_async(500), charge_async(5), charge(7), return_exceptions=True)

    failed, *paid = asyncio.run(run())

    assert isinstance(failed, StepFailed)
    assert paid == ["paid", "paid"]


def test_the_plain_function_raises_what_it_raises() -> None:
    with pytest.raises(CardDeclined):
        charge.function(500)


def test_the_same_source_declared_for_other_types_or_another_queue_is_another_version() -> None:
    async def function(event: Event[Any]) -> None:
        return None

    def version(**options: Any) -> str:
        return workflow(name="one", **options)(function).code_version(None)

    assert version(on="a", queue="q") == version(on="a", queue="q")
    assert len({version(on="a", queue="q"), version(on="b", queue="q"), version(on="a")}) == 3
