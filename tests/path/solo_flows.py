"""Workflows for a worker with a debugger, and ones whose steps share clients."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from threading import Event as Event_
from typing import Any

from veltrix import Event, on_worker_start, resource, step, workflow

_broken = iter([True])


def _note(what: str) -> None:
    with Path(os.environ["PATH_EFFECTS"]).open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


@on_worker_start
def warm() -> None:
    """Before the first run."""
    _note("warmed")


@on_worker_start
async def warm_loop() -> None:
    """The same on the event loop."""
    _note(f"warmed_on_loop_{id(asyncio.get_running_loop())}")


@on_worker_start
def cannot() -> None:
    """Raises, and the child goes on."""
    raise RuntimeError("no such warehouse")


@resource
def client() -> Iterator[dict[str, int]]:
    """It cannot be made the first time."""
    if next(_broken, False):
        raise ConnectionError("not yet")
    _note("opened")
    yield {"calls": 0}
    _note("closed")


@resource
async def async_client() -> AsyncIterator[dict[str, int]]:
    """On the loop of all async steps."""
    _note(f"opened_on_loop_{id(asyncio.get_running_loop())}")
    await asyncio.sleep(0)
    yield {"calls": 0}
    await asyncio.sleep(0)
    _note("closed_on_loop")


@resource
def stuck() -> Iterator[int]:
    """It cannot be closed."""
    yield 1
    Event_().wait()


@step
def ask_stuck() -> int:
    """It can be used."""
    return stuck()


@workflow(queue="path")
async def sticking(_event: Event[Any]) -> int:
    """One step."""
    return await ask_stuck()


@step(backoff_s=0.01)
def ask() -> int:
    """How often this client was asked."""
    mine = client()
    mine["calls"] += 1
    return mine["calls"]


@step
async def ask_async() -> int:
    """The same of the other."""
    mine = await async_client()
    mine["calls"] += 1
    return mine["calls"]


@workflow(queue="path")
async def asking(_event: Event[Any]) -> list[int]:
    """One of each."""
    return [await ask(), await ask_async()]


@workflow(queue="path", retries=0)
async def asks_itself(_event: Event[Any]) -> Any:
    """It may not."""
    return client()


@step(timeout_s=0.2, retries=0)
def looked_at(number: int) -> int:
    """Somebody stands here with a debugger."""
    breakpoint()  # noqa: T100 - that is what is tried
    return number


@workflow(queue="path")
async def debugged(_event: Event[Any]) -> int:
    """One step."""
    return await looked_at(20)
