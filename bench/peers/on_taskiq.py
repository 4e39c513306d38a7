"""Taskiq on RabbitMQ (taskiq-aio-pika) and SQLAlchemy's asyncio extension on asyncpg.

A quorum queue, which is the broker's default; confirmed publishes, which are aio-pika's default and
here wait for many at once, as asyncio lets them; acknowledgement when the task has been executed.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue

from bench.peers import ledger
from bench.peers.front import Event, make_front

broker = AioPikaBroker(
    os.environ["PEER_BROKER_URL"],
    qos=ledger.setting("prefetch"),
    task_queues=[Queue(name="peer")],
)


@cache
def engine() -> AsyncEngine:
    """One per process."""
    url = make_url(ledger.database_url()).set(drivername="postgresql+asyncpg")
    size = ledger.setting("connections")
    return create_async_engine(url, pool_size=size, max_overflow=0)


@broker.task(task_name="peer.run", retry_on_error=True)
async def run(event_id: str) -> None:
    """One event: a settled run is left alone, else its step is run and its outcome committed."""
    async with engine().begin() as tx:
        event = (await tx.execute(ledger.FIND, {"id": event_id})).one()
        if not event.is_settled:
            output = ledger.double(event.body)
            await tx.execute(ledger.SETTLE, {"id": event_id, "output": output})


def publish(event_ids: Sequence[str]) -> None:
    """All are sent, then all confirms are awaited."""

    async def send() -> None:
        await asyncio.gather(*(run.kiq(event_id) for event_id in event_ids))

    _runner().run(send())


@cache
def _runner() -> asyncio.Runner:
    """The event loop of the relay, which has one thread."""
    runner = asyncio.Runner()
    runner.run(broker.startup())
    return runner


async def accept(events: Sequence[Event]) -> None:
    """All of them and what is to be published are committed; known ids change nothing."""
    async with engine().begin() as tx:
        await tx.execute(ledger.ACCEPT, ledger.parameters(events))


async def count_open() -> int:
    """Events without an outcome."""
    async with engine().connect() as connection:
        return int((await connection.execute(ledger.OPEN)).scalar_one())


@asynccontextmanager
async def _opened() -> AsyncIterator[None]:
    yield
    await engine().dispose()


web = make_front(accept, count_open, _opened)
