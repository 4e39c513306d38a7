"""The least that keeps the promises: asyncpg and aio-pika, lists as in Veltrix, no engine.

No subscriptions, leases, retries, checks, metrics or books: how far we are from the floor.
`python -m bench.peers.limit setup` makes the table, `... work` is a worker.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
import uvloop
from aio_pika import DeliveryMode, Message, connect
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from bench.peers.front import Event, make_front
from bench.peers.ledger import double, parameters, setting

_URL = os.environ["PEER_DATABASE_URL"].replace("+psycopg", "")
_SCHEMA = """
create table events (
    id text primary key, body text not null,
    accepted_at timestamptz not null default clock_timestamp(),
    due_at timestamptz default clock_timestamp() + interval '8 s',
    output bigint, settled_at timestamptz);
create index events_due on events (due_at) where due_at is not null
"""
_ACCEPT = """
insert into events (id, body) select * from unnest($1::text[], $2::text[])
on conflict do nothing returning id
"""
_DUE = """
update events set due_at = clock_timestamp() + interval '8 s' where id in (
    select id from events where due_at < clock_timestamp() limit 1000 for update skip locked)
returning id
"""
_OPEN = "select count(*) from events where due_at is not null"
_CLAIM = "select id, body from events where id = any($1::text[]) and due_at is not null"
_SETTLE = """
update events set output = done.output, due_at = null, settled_at = clock_timestamp()
from unnest($1::text[], $2::bigint[]) as done (id, output)
where events.id = done.id and due_at is not null
"""
# What is lost comes due, as Veltrix's does: of its queue `bench.peers --queue` decides for both.
_QUEUE = os.environ["PEER_QUEUE"]
_KEPT = {"classic": DeliveryMode.NOT_PERSISTENT, "quorum": DeliveryMode.PERSISTENT}
_connections: dict[str, asyncpg.Pool] = {}
_channels: dict[str, AbstractChannel] = {}
_publishing: set[asyncio.Task[None]] = set()


async def publish(event_ids: Sequence[str]) -> None:
    """One message of many ids is confirmed."""
    body = json.dumps(event_ids).encode()
    message = Message(body, delivery_mode=_KEPT[_QUEUE])
    await _channels["peer"].default_exchange.publish(message, "peer")


async def accept(events: Sequence[Event]) -> None:
    """All of them are committed; known ids change nothing. Publishing is not waited for."""
    rows = parameters(events)
    new = [row["id"] for row in await _connections["peer"].fetch(_ACCEPT, *rows.values())]
    if new:
        task = asyncio.create_task(publish(new))  # if it fails, they come due again
        _publishing.add(task)
        task.add_done_callback(_publishing.discard)


async def count_open() -> int:
    """Events without an outcome."""
    return int(await _connections["peer"].fetchval(_OPEN))


async def _publish_due() -> None:
    while True:
        await asyncio.sleep(1.0)
        if due := [row["id"] for row in await _connections["peer"].fetch(_DUE)]:
            await publish(due)


@asynccontextmanager
async def _opened() -> AsyncIterator[None]:
    broker = await connect(os.environ["PEER_BROKER_URL"])
    async with broker, asyncpg.create_pool(_URL, min_size=1, max_size=8) as _connections["peer"]:
        _channels["peer"] = channel = await broker.channel()
        await channel.declare_queue("peer", durable=True, arguments={"x-queue-type": _QUEUE})
        duty = asyncio.create_task(_publish_due())
        yield
        duty.cancel()


web = make_front(accept, count_open, _opened)


async def _settle(messages: Sequence[AbstractIncomingMessage]) -> None:
    ids = sorted({event_id for one in messages for event_id in json.loads(one.body)})
    found = await _connections["peer"].fetch(_CLAIM, ids)
    done = sorted((row["id"], double(row["body"])) for row in found)
    await _connections["peer"].execute(_SETTLE, [id_ for id_, _ in done], [out for _, out in done])
    await messages[-1].ack(multiple=True)


async def _work() -> None:
    waiting: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    async with _opened():
        channel = _channels["peer"]
        await channel.set_qos(prefetch_count=setting("prefetch"))
        await (await channel.get_queue("peer")).consume(waiting.put)
        while True:
            messages = [await waiting.get()]
            with suppress(asyncio.QueueEmpty):
                while len(messages) < setting("list_messages"):
                    messages.append(waiting.get_nowait())
            await _settle(messages)


async def _make_table() -> None:
    async with asyncpg.create_pool(_URL, min_size=1, max_size=1) as pool:
        await pool.execute(_SCHEMA)


if __name__ == "__main__":
    uvloop.run(_make_table() if sys.argv[1] == "setup" else _work())
