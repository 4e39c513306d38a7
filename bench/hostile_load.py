"""Dishonest senders: `python -m bench.hostile_load`, a process of its own beside the honest load.

Says `connected` when all are, goes on until SIGTERM, and prints one JSON line: by kind how many
sockets there were, how often one was opened, and the answers by status.
"""

import argparse
import asyncio
import json
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count, cycle
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from bench.http import parse

PAUSE_S = 0.2  # before a socket that the api closed is opened again
MIB = 1024 * 1024


class Kind(NamedTuple):
    """`per_s`: requests of all its sockets together; 0: it has none to send, or never ends one."""

    sockets: int
    per_s: float = 0.0


KINDS = {
    "silent": Kind(900),
    "head a byte a second": Kind(400),
    "body a byte a second": Kind(300),
    "answers not read": Kind(200),
    "unknown key": Kind(100, 300.0),
    "readyz": Kind(50, 100.0),
    "no right to it": Kind(40, 100.0),
    "worst payload": Kind(10, 2.0),
}


def worst_payloads(size: int) -> Iterator[bytes]:
    """Legal JSON of nearly `size` bytes that costs its readers most, one shape after another."""
    deep = 400
    yield b"[" + b",".join([b'"\\u00e9\\ud83d\\ude00"'] * (size // 21)) + b"]"
    yield b'"' + b'\\"' * (size // 2 - 2) + b'"'
    yield b"{" + b",".join(b'"%x":0' % number for number in range(size // 10)) + b"}"
    yield b"[" + b",".join([b"[" * deep + b"]" * deep] * (size // (2 * deep + 1))) + b"]"
    yield b"[" + b",".join([b"1.5e-7"] * (size // 7)) + b"]"
    yield b"[" + b",".join([b"9" * 4_000] * (size // 4_001)) + b"]"
    yield b"[" + b"{}," * (size // 3 - 1) + b"{}]"
    yield b"[1e-200" + b',"",{}' * (size // 6 - 3) + b",1e200]"
    yield b"[" * 480 + b'[""],' * (size // 5 - 200) + b"1e200" + b"]" * 480
    yield b"[0" + b" " * (size - 4) + b"]"


def event_with(data: bytes, number: int, source: str = "/hostile") -> bytes:
    """A structured event with this content."""
    head = (
        f'{{"specversion":"1.0","id":"a\\u0041{number}","source":"{source}","type":"bench.hostile",'
        '"data":'
    )
    return head.encode() + data + b"}"


class Hostile:
    """All of them, against one api."""

    def __init__(self, url: str, keys: dict[str, str], kinds: Sequence[str]) -> None:
        at = urlsplit(url)
        assert at.hostname is not None
        assert at.port is not None
        self._at = (at.hostname, at.port)
        self._keys = keys
        self.kinds = {kind: KINDS[kind] for kind in kinds}
        self.opened: Counter[str] = Counter()
        self.answers: dict[str, Counter[int]] = {kind: Counter() for kind in self.kinds}
        self._all_in = asyncio.Event()
        self._numbers = count(int(time.time() * 1000))
        self._payloads = cycle(list(worst_payloads(MIB - 1024)))

    async def run(self, until: asyncio.Event) -> None:
        """Connect, say so, and go on until then."""
        begin = asyncio.Event()
        waiting = [
            asyncio.create_task(self._again(kind, begin))
            for kind, of in self.kinds.items()
            for _ in range(of.sockets)
        ]
        await self._all_in.wait()
        print("connected", flush=True)
        begin.set()
        await until.wait()
        for one in waiting:
            one.cancel()

    async def _again(self, kind: str, begin: asyncio.Event) -> None:
        """One socket, and another when the api has closed it."""
        ways: dict[str, Callable[..., Awaitable[None]]] = {
            "silent": self._silent,
            "head a byte a second": self._head,
            "body a byte a second": self._body,
            "answers not read": self._unread,
        }
        act = ways.get(kind)
        while True:
            try:
                reader, writer = await asyncio.open_connection(*self._at)
            except OSError:
                await asyncio.sleep(PAUSE_S)
                continue
            self.opened[kind] += 1
            if self.opened.total() == sum(of.sockets for of in self.kinds.values()):
                self._all_in.set()
            if not begin.is_set():
                await begin.wait()
                of = KINDS[kind]  # each at a time of its own
                await asyncio.sleep(random.random() * (of.sockets / of.per_s if of.per_s else 1.0))
            try:
                await (act(reader, writer) if act else self._ask(kind, reader, writer))
            except (OSError, asyncio.IncompleteReadError):
                pass  # closed
            finally:
                writer.close()
            await asyncio.sleep(PAUSE_S)

    async def _silent(self, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def _head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._drip(b"POST /v1/events HTTP/1.1\r\nx-slow: ", reader, writer)

    async def _body(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._drip(self._request("POST /v1/events", "writer", b"", MIB), reader, writer)

    async def _drip(
        self, begin: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(begin)
        while not reader.at_eof():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1.0)

    async def _unread(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while True:
            writer.write(self._request("GET /openapi.json", "writer"))
            await writer.drain()
            await asyncio.sleep(1.0)

    async def _ask(
        self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        pause_s = KINDS[kind].sockets / KINDS[kind].per_s
        while True:
            began = time.monotonic()
            writer.write(self._asked(kind))
            answer = b""
            while (found := parse(answer)) is None:
                more = await reader.read(65_536)
                if not more:
                    return
                answer += more
            self.answers[kind][found[0]] += 1
            await asyncio.sleep(max(0.0, pause_s - (time.monotonic() - began)))

    def _asked(self, kind: str) -> bytes:
        if kind == "readyz":
            return self._request("GET /readyz", "")
        if kind == "unknown key":
            return self._request("GET /v1/runs", "unknown")
        if kind == "no right to it":
            return self._request("GET /v1/runs", "writer")
        body = event_with(next(self._payloads), next(self._numbers))
        return self._request("POST /v1/events", "writer", body)

    def _request(self, what: str, key: str, body: bytes = b"", length: int = 0) -> bytes:
        who = f"authorization: Bearer {self._keys[key]}\r\n" if key else ""
        kind = "content-type: application/cloudevents+json\r\n" if body or length else ""
        return (
            f"{what} HTTP/1.1\r\nhost: localhost\r\n{who}{kind}"
            f"content-length: {length or len(body)}\r\n\r\n"
        ).encode() + body


async def _main(url: str, keys: dict[str, str], kinds: Sequence[str]) -> None:
    until = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, until.set)
    hostile = Hostile(url, keys, kinds)
    await hostile.run(until)
    told = {
        kind: {"sockets": of.sockets, "opened": hostile.opened[kind], **hostile.answers[kind]}
        for kind, of in hostile.kinds.items()
    }
    print(json.dumps(told), flush=True)


def main() -> None:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile_load", description=__doc__)
    parser.add_argument("--target", required=True, help="an api's URL")
    parser.add_argument("--keys", type=json.loads, required=True, help="tokens by use, as JSON")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_main(options.target, options.keys, options.kinds))


if __name__ == "__main__":
    main()
