"""A CA of the tests' own, and TLS in front of a server that speaks none."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import trustme

NAME = "localhost"
_PAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)


class Authority:
    """A CA, and the certificates it gives, as PEM files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._ca = folder, trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)
        self._made = 0

    def certify(self, *names: str, is_expired: bool = False) -> tuple[Path, Path]:
        """Certificate (with its chain) and key for these names."""
        begin, end = _PAST if is_expired else (None, None)
        made = self._ca.issue_cert(*(names or (NAME,)), not_before=begin, not_after=end)
        self._made += 1
        cert, key = (self._folder / f"{self._made}.{kind}" for kind in ("pem", "key"))
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return cert, key


class TlsLine:
    """A way to the server at `url` that speaks TLS with this certificate."""

    def __init__(self, url: str, certificate: tuple[Path, Path]) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(*certificate)
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_held, self._said = False, b""
        self._listener: asyncio.StreamWriter | None = None
        self.taken = 0  # handshakes that the client was content with
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._do(self._start())
        port = self._server.sockets[0].getsockname()[1]
        user = parts.netloc.rpartition("@")[0]
        self.url = parts._replace(
            scheme={"amqp": "amqps", "http": "https"}[parts.scheme],
            netloc=f"{user}@{NAME}:{port}",
        ).geturl()

    def break_all(self) -> None:
        """Cut all lines; new ones are taken at once."""
        self._do(self._cut())

    def fall_silent(self) -> None:
        """Nothing more is said or heard, and no line is cut."""
        self._do(self._stop_reading())

    def hold(self) -> None:
        """What the server says waits, to come together."""
        self._is_held = True

    @property
    def held(self) -> int:
        """How many bytes wait."""
        return len(self._said)

    def let_go(self) -> None:
        """It is passed on, as one record if it fits. For a line with one client."""
        self._is_held = False
        assert self._listener is not None
        self._do(self._pass_on(self._listener))

    def close(self) -> None:
        """End it."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _speak(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await there.read(65_536):
                if self._is_held:
                    self._said, self._listener = self._said + data, writer
                else:
                    writer.write(data)
                    await writer.drain()

    async def _pass_on(self, writer: asyncio.StreamWriter) -> None:
        said, self._said = self._said, b""
        writer.write(said)
        await writer.drain()

    async def _stop_reading(self) -> None:
        for writer in self._writers:
            transport: Any = writer.transport
            transport.pause_reading()

    async def _end(self) -> None:
        self._server.close()
        await self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        there, back = await asyncio.open_connection(*self._target)
        self._writers |= {writer, back}
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(_pump(reader, back)),
                    asyncio.create_task(self._speak(there, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._writers -= {writer, back}
            for one in (writer, back):
                one.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()


@contextmanager
def tls_line(url: str, certificate: tuple[Path, Path]) -> Iterator[TlsLine]:
    """TLS in front of the server at `url`."""
    line = TlsLine(url, certificate)
    try:
        yield line
    finally:
        line.close()
