"""Who does not read his answers keeps no connection, whatever else he does; who reads them does."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, Thread
from typing import Any

import pytest
import uvicorn
import uvloop

from tests.api.conftest import ApiOf
from tests.support.wait import until
from veltrix.api.connection import ApiConnection
from veltrix.api.gate import ConnectionLimits, Gate

FILE = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
PAUSE = Event()  # never set


def test_who_goes_on_asking_and_does_not_read_is_closed(api_of: ApiOf) -> None:
    """Each new request gave the connection, and all that was held for it, time without end."""
    api = api_of(limits=ConnectionLimits(write_s=1.0))
    with unread(("127.0.0.1", api.port)) as one:
        one.setblocking(False)
        until(lambda: is_cut(one), 15, "the end of a connection that is not read")


def is_cut(one: socket.socket) -> bool:
    try:
        one.send(FILE)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def unread(address: Any) -> Iterator[socket.socket]:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        one.settimeout(20)
        one.connect(address)
        yield one


class Server:
    """One that answers each request with so many bytes, and what it holds of it."""

    def __init__(self, size: int, limits: ConnectionLimits, **options: Any) -> None:
        self._size, self.gate, self.answered = size, Gate(limits), Event()
        http: Any = partial(ApiConnection, self.gate)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                http=http,
                lifespan="off",
                log_config=None,
                **options,
            )
        )

    async def _answer(self, _scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % self._size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(self._size)})
        self.answered.set()

    @property
    def held(self) -> list[int]:
        """Of each connection, the bytes that are not sent."""
        return [one.transport.get_write_buffer_size() for one in list(self.gate._guests)]

    @contextmanager
    def running(self) -> Iterator[Any]:
        """Its address."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
            thread = Thread(target=self._serve, args=(listening,))
            thread.start()
            try:
                until(lambda: self._server.started, what="the server to start")
                yield listening.getsockname()
            finally:
                self._server.should_exit = True
                thread.join()

    def _serve(self, listening: socket.socket) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._server.serve(sockets=[listening]))


def read_all(one: socket.socket, size: int, pause_s: float, piece: int) -> int:
    """How many bytes come until the end, if it is read so slowly."""
    got = 0
    while data := one.recv(piece):
        got += len(data)
        if got < size:
            PAUSE.wait(pause_s)
    return got


def test_what_is_not_read_of_a_last_answer_keeps_no_connection() -> None:
    """Too little to stall it: closed for being idle, it waited for ever to be read."""
    server = Server(50_000, ConnectionLimits(write_s=1.0), timeout_keep_alive=1)
    with server.running() as address, unread(address) as one:
        one.sendall(FILE)
        assert server.answered.wait(15)
        until(lambda: not server.gate._guests, 15, "its end")


def test_an_answer_is_whole_for_who_begins_late_to_read_it() -> None:
    """What is left of a last answer has the time of any other, not that of a refusal."""
    server = Server(50_000, ConnectionLimits(linger_s=0.2, write_s=15.0))
    with server.running() as address, unread(address) as one:
        one.sendall(LAST)
        assert server.answered.wait(15)
        PAUSE.wait(1.5)

        assert read_all(one, 50_000, 0.0, 65_536) > 50_000


def test_an_answer_is_whole_for_who_reads_it_slowly_and_steadily() -> None:
    """All of it takes longer than anybody may go without reading."""
    server = Server(200_000, ConnectionLimits(write_s=1.0))
    with server.running() as address, unread(address) as one:
        one.sendall(LAST)

        assert read_all(one, 200_000, 0.05, 40_000) > 200_000


def test_no_more_of_an_answer_is_made_ready_than_is_read() -> None:
    server = Server(5_000_000, ConnectionLimits())
    with server.running() as address, unread(address) as one:
        one.sendall(FILE)
        until(lambda: any(server.held), what="an answer that waits to be read")

        assert not server.answered.is_set()
        assert max(server.held) < 300_000


@pytest.mark.parametrize("then", [b"GET /x HTTP/1.1\r\nx:", b"\x00"], ids=["half a head", "none"])
def test_who_reads_late_has_no_more_time_for_what_he_asks_next(then: bytes) -> None:
    """When he had read, nothing of what he had begun to ask had an end any more."""
    server = Server(300_000, ConnectionLimits(head_s=0.5, linger_s=0.5))
    with server.running() as address, unread(address) as one:
        one.sendall(FILE)
        until(lambda: any(server.held), what="an answer that waits to be read")
        one.sendall(then)
        one.settimeout(0.5)
        with suppress(TimeoutError):
            read_all(one, 10**9, 0.0, 65_536)
        until(lambda: not server.gate._guests, 15, "its end")


def test_an_answer_that_has_begun_is_whole_whatever_its_request_becomes() -> None:
    """It was cut where it was, on a connection that nobody ever closed."""
    server = Server(300_000, ConnectionLimits(linger_s=0.5))
    with server.running() as address, unread(address) as one:
        one.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        until(lambda: any(server.held), what="an answer that waits to be read")
        one.sendall(b"zz\r\n")

        assert read_all(one, 300_000, 0.0, 65_536) > 300_000
        until(lambda: not server.gate._guests, 15, "its end")
