"""The load: `python -m bench.load`, a process of its own, over raw keep-alive connections.

An HTTP library would measure itself. Prints one JSON line, a `Flooded` or a list of `Sent`.
"""

import argparse
import asyncio
import json
import select
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import accumulate
from math import inf
from typing import NamedTuple

from bench.http import Connection, Exchange, connect

_WATCH_S, _PATIENCE_S = 0.2, 1.0
_BALANCE = b"GET /v1/balance HTTP/1.1\r\nhost: localhost\r\n\r\n"
_ONE, _MANY = "application/cloudevents+json", "application/cloudevents-batch+json"


class Flooded(NamedTuple):
    """What a flood did: events accepted and refused, in how many seconds."""

    accepted: int
    refused: int
    seconds: float


class Sent(NamedTuple):
    """A request of an open loop: its first event, how many, when it was to go, and was answered.

    Unix seconds; `answered` 0: it was refused, or its answer never came.
    """

    number: int
    events: int
    due: float
    answered: float


def event_json(number: int, type_: str = "bench.event") -> str:
    """An event of about 200 bytes."""
    return (
        f'{{"specversion":"1.0","id":"{number}","source":"/bench","type":"{type_}",'
        f'"time":"2026-01-01T00:00:00Z","subject":"bench-{number % 1000}",'
        f'"data":{{"n":{number},"text":"some words of an ordinary length"}}}}'
    )


def request_of(
    first: int, count: int, type_: str = "bench.event", authorization: str = ""
) -> bytes:
    """A POST of these events to /v1/events: one as itself, more as a batch; with this key."""
    events = [event_json(number, type_) for number in range(first, first + count)]
    body = (events[0] if count == 1 else f"[{','.join(events)}]").encode()
    who = f"authorization: Bearer {authorization}\r\n" if authorization else ""
    head = (
        f"POST /v1/events HTTP/1.1\r\nhost: localhost\r\n{who}"
        f"content-type: {_ONE if count == 1 else _MANY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def flood(
    targets: Sequence[str],
    *,
    seconds: float,
    size: int,
    first: int,
    type_: str = "bench.event",
    connections: int = 8,
    open_max: int = 0,
    count_max: int = sys.maxsize,
) -> Flooded:
    """Batches of `size` as fast as the answers come, for `seconds` or `count_max` events.

    No batch begins while `GET /v1/balance` shows more than `open_max` open runs: what is measured
    is what the whole platform sustains, not how fast a backlog can be made. 0: without that.
    """
    sent = accepted = refused = 0
    began = time.monotonic()
    has_room = asyncio.Event()
    has_room.set()

    async def watch(connection: Connection) -> None:
        while open_max:
            _, body = await connection.ask(_BALANCE)
            (has_room.clear if json.loads(body)["runs"]["open"] > open_max else has_room.set)()
            await asyncio.sleep(_WATCH_S)

    async def one(connection: Connection) -> None:
        nonlocal sent, accepted, refused
        while time.monotonic() - began < seconds and sent < count_max:
            await has_room.wait()
            number, count = first + sent, min(size, count_max - sent)
            if count <= 0:
                return
            sent += count
            status, _ = await connection.ask(request_of(number, count, type_))
            if status == 202:
                accepted += count
            else:
                refused += count
                await asyncio.sleep(0.05)

    watching, *posting = await connect(targets, 1 + connections)
    watcher = asyncio.create_task(watch(watching))
    await asyncio.gather(*map(one, posting))
    watcher.cancel()
    return Flooded(accepted, refused, time.monotonic() - began)


def due_times(schedule: Sequence[tuple[float, float]], size: int = 1) -> list[float]:
    """When each request of `size` events is to go, from 0, by (events per second, seconds)."""
    begins = accumulate((seconds for _, seconds in schedule), initial=0.0)
    return [
        begin + index * size / rate
        for begin, (rate, seconds) in zip(begins, schedule, strict=False)
        for index in range(round(rate * seconds / size))
    ]


def open_loop(
    targets: Sequence[str],
    *,
    schedule: Sequence[tuple[float, float]],
    first: int,
    size: int = 1,
    type_: str = "bench.event",
    connections: int = 64,
    authorization: str = "",
) -> list[Sent]:
    """Requests of `size` events, sent on schedule.

    The schedule does not wait for answers: a request whose turn comes and finds no free connection
    is sent late and measured from its turn (no coordinated omission). The requests are made
    beforehand and the loop is its own, because it shares the cores with what it measures: with
    asyncio it took a tenth of all the processor time there is at 333/s. Raises ConnectionError when
    an api closes a connection.
    """
    turns = due_times(schedule, size)
    requests = [request_of(first + i * size, size, type_, authorization) for i in range(len(turns))]
    with ExitStack() as opened:
        free = deque(
            opened.enter_context(closing(Exchange(targets[number % len(targets)])))
            for number in range(connections)
        )
        return [
            Sent(first + index * size, size, due, answered)
            for index, due, answered in _on_schedule(free, turns, requests)
        ]


def _on_schedule(
    free: deque[Exchange], turns: Sequence[float], requests: Sequence[bytes]
) -> Iterator[tuple[int, float, float]]:
    """(index, when it was due, when it was answered or 0) of each request, as answers come."""
    busy: dict[Exchange, int] = {}
    offset = time.time() - time.monotonic()
    start = time.monotonic() + 0.2
    turned = begun = 0
    while begun < len(turns) or busy:
        now = time.monotonic() - start
        while turned < len(turns) and turns[turned] <= now:
            turned += 1
        while begun < turned and free:
            exchange = free.popleft()  # by turns: an api closes those that never ask
            exchange.send(requests[begun])
            busy[exchange] = begun
            begun += 1
        # By select: its timers are exact, epoll's round up to the next millisecond.
        next_turn = turns[turned] + start if turned < len(turns) else inf
        pause_s = min(_PATIENCE_S, max(0.0, next_turn - time.monotonic()))
        for exchange in select.select(busy, (), (), pause_s)[0]:
            if status := exchange.receive():
                index = busy.pop(exchange)
                free.append(exchange)
                answered = time.monotonic() + offset if status == 202 else 0.0
                yield index, turns[index] + start + offset, answered


def main() -> None:
    """`--schedule` makes an open loop; without it, a flood."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--targets", type=json.loads, required=True, help="api URLs, as JSON")
    parser.add_argument("--options", type=json.loads, required=True, help="arguments, as JSON")
    options = parser.parse_args()
    if "schedule" in options.options:
        print(json.dumps(open_loop(options.targets, **options.options)))
    else:
        print(json.dumps(asyncio.run(flood(options.targets, **options.options))))


if __name__ == "__main__":
    main()
