"""Workflows that Flower is shown: one succeeds, one tries again, one fails, one takes its time."""

import asyncio
from pathlib import Path
from typing import Any

from veltrix import Event, step, workflow


class BankAway(Exception):
    """Tried again after a while."""


class CardDeclined(Exception):
    """Not tried again."""


@step
def reserve(order_id: str) -> str:
    return f"reserved {order_id}"


@step(retries=3, backoff_s=60)
def charge(order_id: str) -> str:
    raise BankAway(order_id)


@step(retries=0)
def decline(order_id: str) -> str:
    raise CardDeclined(order_id)


@step
async def wait_for(path: str) -> None:
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 - it ends when the test says so
        await asyncio.sleep(0.02)


@workflow(on="shown.good", queue="shown")
async def good_order(event: Event[Any]) -> str:
    return await reserve(event.id)


@workflow(on="shown.retried", queue="shown")
async def retried_order(event: Event[Any]) -> str:
    return await charge(event.id)


@workflow(on="shown.failed", queue="shown")
async def failed_order(event: Event[Any]) -> str:
    return await decline(event.id)


@workflow(on="shown.slow", queue="shown_slow")
async def slow_order(event: Event[Any]) -> None:
    await wait_for(event.data["path"])
