"""A workflow is started by its name, and the caller waits for the outcome in the same call."""

from typing import Any

import httpx

from veltrix import Event, step, workflow


@step
def add(numbers: list[int]) -> int:
    """Their sum."""
    return sum(numbers)


@workflow(queue="examples")  # without `on`: no event starts it
async def total(event: Event[list[int]]) -> int:
    """The sum of the input."""
    return await add(event.data)


def start(api: httpx.Client, numbers: list[int], key: str, wait_s: float = 10.0) -> dict[str, Any]:
    """The run, settled or not; the same `key` starts it once, however often this is called."""
    answer = api.post(
        "/v1/workflows/total/runs",
        params={"wait_s": wait_s},
        headers={"idempotency-key": key},
        json={"input": numbers},
        timeout=wait_s + 5,
    )
    answer.raise_for_status()  # 200: settled, 202: still going on
    run: dict[str, Any] = answer.json()
    return run
