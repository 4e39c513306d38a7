"""Agreeing on TLS with those who connect, who are guests of the gate from their first packet on.

uvicorn would leave it to the loop, which tells of a connection when its handshake is over: who
connects and says nothing would be counted by nobody, and keep a file of ours for a minute.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any, cast

import uvicorn

from veltrix.api.gate import Gate
from veltrix.telemetry import connections_closed, logger
from veltrix.tls import Certificate

ACCEPT_PAUSE_S = 0.5  # after a connection that could not be taken: no file may be left
_FAILURES = (OSError, asyncio.CancelledError)

_log = logger("api")
# For the goodbye of a client: as long as it reads what was said before, which the gate looks at.
_SHUTDOWN_S = 24 * 3_600.0


class TlsServer(uvicorn.Server):
    """uvicorn's server; with a certificate it speaks TLS on the sockets it is given."""

    def __init__(self, config: uvicorn.Config, gate: Gate, certificate: Certificate | None) -> None:
        super().__init__(config)
        self._gate, self._certificate = gate, certificate
        self._taking: list[asyncio.Task[None]] = []
        self._agreeing: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        if self._certificate is None:
            await super().startup(sockets)
            return
        await super().startup([])
        for listening in sockets or [] if self.started else []:
            listening.setblocking(False)
            self._taking.append(asyncio.create_task(self._take(listening, self._certificate)))

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second. A certificate that changed is looked at before somebody connects."""
        if self._certificate is not None:
            self._certificate.look()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nobody any more, end who has not agreed yet, and wait for what is in hand."""
        tasks = [*self._taking, *self._agreeing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().shutdown(sockets)

    async def _take(self, listening: socket.socket, certificate: Certificate) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken, _ = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("connection.not_taken", error=str(error))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            taken.setblocking(False)
            with suppress(OSError):
                taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            greeting = _Greeting(taken, loop.time() + self._gate.limits.head_s)
            self._gate.enter(greeting)
            task = loop.create_task(self._agree(greeting, taken, certificate))
            self._agreeing.add(task)
            task.add_done_callback(self._agreeing.discard)

    async def _agree(
        self, greeting: "_Greeting", taken: socket.socket, certificate: Certificate
    ) -> None:
        """A handshake; after it the connection is a guest itself, in place of the greeting."""
        limits = self._gate.limits
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(greeting),
                taken,
                ssl=certificate.context,
                ssl_handshake_timeout=limits.head_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except _FAILURES:
            if not greeting.is_given_up:
                connections_closed.labels("tls").inc()
                greeting.abort()
        finally:
            self._gate.leave(greeting)

    def _connection(self, greeting: "_Greeting") -> asyncio.Protocol:
        make = cast(Any, self.config.http_protocol_class)
        made = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        made.greeting = greeting
        return cast(asyncio.Protocol, made)


class _Greeting:
    """A connection that TLS is being agreed on with, as the gate sees it."""

    def __init__(self, taken: socket.socket, deadline: float) -> None:
        self._taken, self._deadline = taken, deadline
        self.is_given_up = False
        self.transport = cast(asyncio.Transport, self)

    def is_over(self, now: float) -> bool:
        return now >= self._deadline

    def close_late(self) -> None:
        self.abort()

    def abort(self) -> None:
        """The loop, which has the socket now, sees its end and gives it up."""
        self.is_given_up = True
        with suppress(OSError):
            self._taken.shutdown(socket.SHUT_RDWR)
