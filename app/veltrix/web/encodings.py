"""`Content-Encoding`: what a sender compressed counts as it was before, also for the limits.

RFC 9110, 8.4: gzip, deflate (which some send without zlib's frame) and zstd, one of them.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterable
from functools import partial

import zstandard

from veltrix.web.problems import Problem
from veltrix.web.turns import AT_ONCE_BYTES_MAX, Turns

_STEP = 256 * 1024
_SLICE, _SLICE_ZSTD = 16 * 1024, 1024
_MEMBERS_MAX = 1_000
_GROWS_MAX = 1_000  # times
_WINDOW = 8 * 1024 * 1024
# Not the thread that reads bodies: whoever sends no compressed ones does not wait for these.
_decoding = Turns("decoding")
ACCEPTED = "gzip, deflate, zstd"


def coding_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The coding of a body; "": none. Raises a 415 Problem for one that is not known here."""
    given = [value for name, value in headers if name == b"content-encoding"]
    if not given:
        return ""
    coding = b",".join(given).decode("latin-1").strip().lower()
    coding = {"x-gzip": "gzip", "identity": ""}.get(coding, coding)
    if coding and coding not in _DECODERS:
        raise Problem(
            "unsupported-encoding",
            f"the body is {coding[:100]!r}: send it as one of {ACCEPTED}, or as it is",
            headers={"Accept-Encoding": ACCEPTED},
        )
    return coding


async def decoded(author: str, body: bytes, coding: str, bytes_max: int) -> bytes:
    """The body as it was before it was compressed.

    Raises a 413 Problem if that has more than `bytes_max`, and a 400 one if it cannot be read.
    """
    if min(len(body) * _GROWS_MAX, bytes_max) <= AT_ONCE_BYTES_MAX:
        return _decode(body, coding, bytes_max)
    work = partial(_decode, body, coding, bytes_max)
    return await asyncio.wrap_future(_decoding.submit(author, work))


def _decode(body: bytes, coding: str, bytes_max: int) -> bytes:
    try:
        return _DECODERS[coding](body, bytes_max)
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        detail = f"the body is not valid {coding}: {error}"
        raise Problem("bad-encoding", detail[:500]) from None


class _Size:
    """What has been decoded, and how much it may become."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max, self.size = bytes_max, 0
        self.pieces: list[bytes] = []
        self.members = 0

    def add(self, piece: bytes) -> None:
        """One more piece."""
        self.size += len(piece)
        if self.size > self.bytes_max:
            raise _too_large(self.bytes_max)
        if piece:
            self.pieces.append(piece)

    def begin(self) -> None:
        """One more member: a file of many small ones costs more than it holds."""
        self.members += 1
        if self.members > _MEMBERS_MAX:
            raise EOFError(f"it has more than {_MEMBERS_MAX:,} parts")


def _gzip(body: bytes, bytes_max: int) -> bytes:
    """Of any number of members, with zeros after them, as gzip(1) allows."""
    into, at = _Size(bytes_max), 0
    while at < len(body):
        into.begin()
        at = _inflate(31, body, at, into)
        while at < len(body) and body[at] == 0:
            at += 1
    return b"".join(into.pieces)


def _deflate(body: bytes, bytes_max: int) -> bytes:
    is_framed = len(body) >= 2 and body[0] & 0x0F == 8 and not (body[0] << 8 | body[1]) % 31
    into = _Size(bytes_max)
    if _inflate(15 if is_framed else -15, body, 0, into) != len(body):
        raise EOFError("something follows its end")
    return b"".join(into.pieces)


def _inflate(wbits: int, body: bytes, at: int, into: _Size) -> int:
    """Read one stream from there on; where it ends. In slices: what is left over is copied."""
    reader = zlib.decompressobj(wbits=wbits)
    while not reader.eof:
        rest = body[at : at + _SLICE]
        if not rest:
            raise EOFError("it ends before its end")
        at += len(rest)
        while rest and not reader.eof:
            into.add(reader.decompress(rest, _STEP))
            rest = reader.unconsumed_tail
    return at - len(reader.unused_data)


def _zstd(body: bytes, bytes_max: int) -> bytes:
    into, at = _Size(bytes_max), 0
    while at < len(body):
        into.begin()
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
        while not reader.eof:
            rest = body[at : at + _SLICE_ZSTD]  # its pieces have no bound of their own
            if not rest:
                raise EOFError("it ends before its end")
            at += len(rest)
            into.add(reader.decompress(rest))
        at -= len(reader.unused_data)
    return b"".join(into.pieces)


def _too_large(bytes_max: int) -> Problem:
    detail = f"the body, decompressed, has more than the {bytes_max:,} bytes allowed"
    return Problem("too-large", detail)


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}
