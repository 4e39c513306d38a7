"""As much of HTTP/1.1 as the load needs: keep-alive, one request at a time per connection."""

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request on its way at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

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
        assert self._transport is not None
        if self._transport.is_closing():
            raise ConnectionError("the api closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


async def connect(urls: Sequence[str], count: int) -> list[Connection]:
    """That many connections, by turns to these addresses."""
    loop = asyncio.get_running_loop()
    made = []
    for number in range(count):
        at = urlsplit(urls[number % len(urls)])
        assert at.hostname is not None
        _, protocol = await loop.create_connection(Connection, at.hostname, at.port or 80)
        made.append(protocol)
    return made
