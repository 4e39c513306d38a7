"""The workflows under load: each journals every step it takes."""

import asyncio
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from veltrix import Event, step, transaction, workflow


@step
def double(number: int) -> int:
    """As little work as a step can do."""
    return number * 2


@step
async def pause(seconds: float) -> float:
    """Waits as for a service that takes its time; holds its run, not the child."""
    await asyncio.sleep(seconds)
    return seconds


@transaction
def book(session: Session, number: int) -> int:
    """An effect in the database, once."""
    session.execute(text("insert into bench_bookings (n) values (:n)"), {"n": number})
    return number


@workflow(on="bench.event", queue="bench")
async def bench_flow(event: Event[Any]) -> int:
    """One step per event."""
    return await double(event.data["n"])


@workflow(on="bench.two", queue="bench")
async def bench_two(event: Event[Any]) -> int:
    """Two steps, one after the other."""
    return await double(await double(event.data["n"]))


@workflow(on="bench.five", queue="bench")
async def bench_five(event: Event[Any]) -> int:
    """Five steps, one after the other."""
    number: int = event.data["n"]
    for _ in range(5):
        number = await double(number)
    return number


@workflow(on="bench.pause", queue="bench")
async def bench_pause(_event: Event[Any]) -> float:
    """An async step of 10 ms."""
    return await pause(0.01)


@workflow(on="bench.book", queue="bench")
async def bench_book(event: Event[Any]) -> int:
    """A transactional step."""
    number: int = await book(event.data["n"])
    return number
