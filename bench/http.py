"""As much of HTTP/1.1 as the load needs: keep-alive, one request at a time per connection."""

import asyncio
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit


def parse(answer: bytes | bytearray) -> tuple[int, int] | None:
    """The status and where the body begins; None: there is more to come."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(answer[:end]).lower()
    at = head.index(b"content-length:") + 15
    length = int(head[at : at + 12].split(b"\r\n")[0])
    return (int(head[9:12]), end + 4) if len(answer) >= end + 4 + length else None


class Exchange:
    """One keep-alive connection without an event loop: for `select`."""

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        assert at.hostname is not None
        self._socket = socket.create_connection((at.hostname, at.port or 80), timeout=30.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = b""
        self._number = self._socket.fileno()

    def fileno(self) -> int:
        """The socket."""
        return self._number

    def close(self) -> None:
        """Let the connection go."""
        self._socket.close()

    def send(self, request: bytes) -> None:
        """Send a request: the answer to the one before is complete."""
        self._answer = b""
        self._socket.sendall(request)

    def receive(self) -> int:
        """What has come: the status when the answer is complete, 0 when it is not."""
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionError("the api closed the connection")
        self._answer += data
        found = parse(self._answer)
        return found[0] if found else 0


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
        found = parse(self._buffer)
        if found is not None and self._answer is not None:
            status, body = found[0], bytes(self._buffer[found[1] :])
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
