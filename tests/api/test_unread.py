"""Who does not read his answers keeps no connection, whatever else he does."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from typing import Any

import uvicorn

from tests.api.conftest import ApiOf
from tests.support.wait import until
from veltrix.api.connection import ApiConnection
from veltrix.api.gate import Gate, Limits

FILE = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


def test_who_goes_on_asking_and_does_not_read_is_closed(api_of: ApiOf) -> None:
    """Each new request gave the connection, and all that was held for it, time without end."""
    api = api_of(limits=Limits(write_s=1.0))
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
        one.connect(address)
        yield one


def test_what_is_not_read_of_a_last_answer_keeps_no_connection() -> None:
    """Too little to stall it: closed for being idle, it waited for ever to be read."""
    size, gate, answered = 50_000, Gate(Limits(linger_s=0.5)), Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})
        answered.set()

    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        serving(app, gate, listening),
        unread(listening.getsockname()) as one,
    ):
        one.sendall(FILE)
        assert answered.wait(15)
        (guest,) = gate._guests
        assert 0 < guest.transport.get_write_buffer_size() < 65_536
        until(lambda: not gate._guests, 15, "its end")


@contextmanager
def serving(app: Any, gate: Gate, listening: socket.socket) -> Iterator[None]:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    http: Any = partial(ApiConnection, gate)
    config = uvicorn.Config(app, http=http, lifespan="off", log_config=None, timeout_keep_alive=1)
    server = uvicorn.Server(config)
    thread = Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        until(lambda: server.started, what="the server to start")
        yield
    finally:
        server.should_exit = True
        thread.join()
