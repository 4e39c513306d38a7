"""One request of a connection and its answer: uvicorn's, with its end closed."""

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from veltrix.api.unread import UnreadAnswers

WRITTEN_BYTES = 64 * 1024  # of an answer at a time: what nobody reads is not made ready to be sent


class Lingerer(Protocol):
    """A connection that may be read to its end before it is closed."""

    transport: asyncio.Transport
    unread: UnreadAnswers

    def linger(self) -> None:
        """Read what comes, and close when the client has read its answer."""
        ...


def give_up(cycle: RequestResponseCycle) -> None:
    """Nobody waits for this answer any more."""
    cycle.disconnected |= not cycle.response_complete
    cycle.message_event.set()


class Cycle(RequestResponseCycle):
    """A request and its answer. What is left of a body that nobody read is no next request."""

    def __init__(self, connection: Lingerer, **options: Any) -> None:
        super().__init__(**options)
        self._connection = connection
        self._is_told = self._has_ended = False

    def hear_no_more(self) -> None:
        """The client sends no more: it has perhaps gone, and is waited with no longer."""
        self._has_ended = True
        self.message_event.set()

    async def run_asgi(self, app: Any) -> None:
        """See uvicorn; who was told that the client is gone need not finish the answer."""

        async def answering(*asked: Any) -> None:
            await app(*asked)
            if self._has_ended and not self.response_complete:
                self.disconnected = True
                self.transport.close()

        await super().run_asgi(answering)

    async def receive(self) -> Any:
        """See uvicorn; after the whole request the end of what the client sends is a disconnect."""
        if self._is_told and self._has_ended:
            return {"type": "http.disconnect"}
        message = await super().receive()
        if self._is_told and self._has_ended:
            return {"type": "http.disconnect"}
        self._is_told = not message.get("more_body", False)
        return message

    async def send(self, message: Any) -> None:
        """See uvicorn; the connection ends after the answer if the request has not come whole."""
        if self.transport.is_closing():
            self.disconnected = True
            return
        is_cut = self.more_body and not self.disconnected
        if is_cut and not self.response_started:
            self.keep_alive = False
            self.transport = cast(asyncio.Transport, _Lingering(self._connection))
        for part in _parts(message):
            self._connection.unread.given += len(part.get("body", b""))
            await super().send(part)


def _parts(message: Any) -> Iterator[Any]:
    """What is sent of it before the client has read most of what was sent before."""
    body = message.get("body", b"")
    if len(body) <= WRITTEN_BYTES:
        yield message
        return
    for at in range(0, len(body), WRITTEN_BYTES):
        more = message.get("more_body", False) or at + WRITTEN_BYTES < len(body)
        yield {**message, "body": body[at : at + WRITTEN_BYTES], "more_body": more}


class _Lingering:
    """The transport of an answer after which the connection lingers where it would be closed."""

    def __init__(self, connection: Lingerer) -> None:
        self._connection = connection
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing

    def close(self) -> None:
        """Not yet."""
        self._connection.linger()
