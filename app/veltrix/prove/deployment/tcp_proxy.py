"""A line: a TCP proxy on loopback that can fall silent, break, or take its time.

Processes are told its address instead of the server's. Silence is what a cut network is like: no
answer and no error, until somebody's limit; what was under way then breaks when it is mended.
"""

import asyncio
from collections.abc import Callable, Coroutine
from threading import Thread
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import uvloop

from veltrix.dev.servers.ports import LOOPBACK, free_port

_READ_BYTES = 65_536
_CALL_S = 10.0
_PROTOCOL_3 = (196_608).to_bytes(4, "big")
_START_UP_MIN = 9


class TcpProxy:
    """`url` leads to the same place as the one given, through a thread of this process."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None, "a URL with a host"
        assert parts.port is not None, "a URL with a port"
        self._target = (parts.hostname, parts.port)
        self._port = free_port()
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@{LOOPBACK}:{self._port}"))
        self._loop = uvloop.new_event_loop()
        self._is_up = asyncio.Event()
        self._delay_s = 0.0
        self._bytes_max = 0
        self._is_dropping = False
        self._is_closed = False
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._thread = Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._thread.start()
        self._call(self._listen)

    def fall_silent(self) -> None:
        """Nothing passes any more, in either direction; new connections get no answer."""
        self._call(self._silence)

    def mend(self) -> None:
        """What was connected while it was silent is broken; everything new passes."""
        self._call(self._mend)

    def break_all(self) -> None:
        """Every connection ends now; new ones pass."""
        self._call(self._break)

    def slow_down(self, seconds: float) -> None:
        """Each piece is passed on so much later (0: at once)."""
        self._delay_s = seconds

    def cut_after(self, bytes_: int) -> None:
        """Each connection is cut when so many bytes were answered (0: none is)."""
        self._bytes_max = bytes_

    def drop_options(self, *, is_dropping: bool) -> None:
        """New connections to PostgreSQL are made without what they ask of their session."""
        self._is_dropping = is_dropping

    def close(self) -> None:
        """No more line."""
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    def _call(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(_CALL_S)

    async def _listen(self) -> None:
        self._is_up.set()
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self._port)

    async def _silence(self) -> None:
        self._is_up.clear()

    async def _mend(self) -> None:
        await self._break()
        self._is_up.set()

    async def _break(self) -> None:
        for end in list(self._ends):
            end.transport.abort()

    async def _close(self) -> None:
        assert self._server is not None
        self._is_closed = True
        self._server.close()
        await self._break()
        self._is_up.set()  # who waits for it sees the broken connection, and ends
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_CALL_S / 2)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        try:
            await self._is_up.wait()
            if self._is_closed:
                return
            there, back = await asyncio.open_connection(*self._target)
            self._ends.add(back)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(reader, back, is_asking=True))
                    both.create_task(self._pass(there, writer))
            finally:
                self._ends.discard(back)
                back.transport.abort()
        except* (OSError, RuntimeError):  # RuntimeError: uvloop's "the handler is closed"
            pass
        finally:
            self._ends.discard(writer)
            writer.transport.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_asking: bool = False,
    ) -> None:
        passed = 0
        while piece := await reader.read(_READ_BYTES):
            await self._is_up.wait()
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            if is_asking and self._is_dropping:
                piece = without_options(piece)
            passed += len(piece)
            if self._bytes_max and not is_asking and passed > self._bytes_max:
                writer.write(piece[: len(piece) // 2])
                await writer.drain()
                raise ConnectionResetError("cut")
            writer.write(piece)
            await writer.drain()
        writer.write_eof()


def without_options(piece: bytes) -> bytes:
    """A start-up packet of PostgreSQL's protocol without its `options`; all else as it is."""
    if len(piece) < _START_UP_MIN or piece[4:8] != _PROTOCOL_3:
        return piece
    words = piece[8:].split(b"\0")
    pairs = list(zip(words[::2], words[1::2], strict=False))
    kept = [pair for pair in pairs if pair[0] not in (b"options", b"")]
    body = _PROTOCOL_3 + b"".join(name + b"\0" + value + b"\0" for name, value in kept) + b"\0"
    return (4 + len(body)).to_bytes(4, "big") + body
