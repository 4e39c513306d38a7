"""Load over raw keep-alive connections: an HTTP library would measure itself."""

import asyncio
import json
import selectors
import time

_WATCH_S = 0.2


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request on its way at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : at + 12].split(b"\r\n")[0])
        if len(self._buffer) >= end + 4 + length and self._answer is not None:
            status, body = int(head[9:12]), bytes(self._buffer[end + 4 :])
            self._buffer.clear()
            answer, self._answer = self._answer, None
            answer.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the api closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises ConnectionError when the api closed it."""
        assert self.transport is not None
        if self.transport.is_closing():
            raise ConnectionError("the api closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


def request_of(body: bytes, content_type: str) -> bytes:
    """A POST of /v1/events."""
    return (
        f"POST /v1/events HTTP/1.1\r\nhost: bench\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


def event_json(number: int) -> str:
    """An event of about 200 bytes."""
    return (
        f'{{"specversion":"1.0","id":"{number}","source":"/bench","type":"bench.event",'
        f'"time":"2026-01-01T00:00:00Z","subject":"bench-{number % 1000}",'
        f'"data":{{"n":{number},"text":"some words of an ordinary length"}}}}'
    )


async def _connect(host: str, port: int, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Connection, host, port) for _ in range(count)]
    return [protocol for _, protocol in made]


async def flood(
    host: str, port: int, seconds: float, size: int, connections: int, open_max: int
) -> int:
    """Events accepted in `seconds`, as batches of `size`, as fast as the answers come.

    No batch begins while `GET /v1/balance` shows more than `open_max` open runs: what is measured
    is what the whole platform sustains, not how fast a backlog can be made. 0: without that.
    """
    sent = accepted = 0
    end = time.monotonic() + seconds
    has_room = asyncio.Event()
    has_room.set()

    async def watch(connection: Connection) -> None:
        while open_max:
            _, body = await connection.ask(b"GET /v1/balance HTTP/1.1\r\nhost: bench\r\n\r\n")
            (has_room.clear if json.loads(body)["runs"]["open"] > open_max else has_room.set)()
            await asyncio.sleep(_WATCH_S)

    async def one(connection: Connection) -> None:
        nonlocal sent, accepted
        while time.monotonic() < end:
            await has_room.wait()
            first, sent = sent, sent + size
            body = "[" + ",".join(map(event_json, range(first, first + size))) + "]"
            request = request_of(body.encode(), "application/cloudevents-batch+json")
            status, _ = await connection.ask(request)
            if status == 202:
                accepted += size
            else:
                await asyncio.sleep(0.05)

    watching, *posting = await _connect(host, port, 1 + connections)
    watcher = asyncio.create_task(watch(watching))
    await asyncio.gather(*map(one, posting))
    watcher.cancel()
    return accepted


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are exact: epoll's round up to the next millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def open_loop(
    host: str, port: int, rate: float, seconds: float, connections: int, first: int = 0
) -> list[tuple[int, float, float]]:
    """(number, intended send time, answer time) of single events sent on schedule.

    The schedule does not wait for answers: an event whose turn comes and finds no free connection
    is sent late and measured from its turn (no coordinated omission). Times are Unix seconds.
    """
    loop = asyncio.get_running_loop()
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for connection in await _connect(host, port, connections):
        free.put_nowait(connection)
    found: list[tuple[int, float, float]] = []
    offset = time.time() - loop.time()
    start = loop.time() + 0.2

    async def one(number: int, due: float) -> None:
        body = event_json(number).encode()
        request = request_of(body, "application/cloudevents+json")
        connection = await free.get()
        status, _ = await connection.ask(request)
        free.put_nowait(connection)
        if status == 202:
            found.append((number, due + offset, loop.time() + offset))

    tasks = set()
    for index in range(int(rate * seconds)):
        due = start + index / rate
        pause = due - loop.time()
        if pause > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(first + index, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return found
