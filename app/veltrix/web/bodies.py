"""Request bodies, read with a limit while they come: never more in memory than is allowed."""

import asyncio

from starlette.types import Receive, Scope

from veltrix.web.auth import AUTHOR, Author
from veltrix.web.encodings import coding_of, decoded
from veltrix.web.problems import Problem, unavailable
from veltrix.web.turns import AT_ONCE_BYTES_MAX

_SHARE, _SHARE_OF_NOBODY = 2, 8


class Disconnected(Exception):
    """The client has gone away before the end of its request: there is nobody to answer."""


class BodyReader:
    """Reads the bodies of one server; together they take at most `total_bytes_max`.

    One author has half of that at most, and an eighth is for all that come without one: who holds
    back the end of large bodies keeps nobody else from sending.
    """

    def __init__(self, total_bytes_max: int) -> None:
        self._total_bytes_max = self._left_bytes = total_bytes_max
        self._held: dict[str, int] = {}  # bytes, by author

    async def read(self, scope: Scope, receive: Receive, bytes_max: int) -> bytes:
        """The whole body, decompressed. Raises Disconnected when the client goes away.

        Raises a 413 Problem as soon as it has, or announces, more than `bytes_max` or than its key
        may send, compressed or not, a 503 Problem when this server holds too many bodies, and 415
        or 400 Problems of `veltrix.web.encodings`.
        """
        known: Author | None = scope.get(AUTHOR)
        author = "" if known is None else known.name
        if known is not None and known.limits is not None:
            bytes_max = min(bytes_max, known.limits.body_bytes_max or bytes_max)
        coding = coding_of(scope["headers"])
        body = await self._read(scope, receive, bytes_max, author)
        if not coding:
            return body
        body = await decoded(author, body, coding, bytes_max)
        self._hold(author, len(body))  # few bytes became many, and wait to be parsed
        self._release_at_the_end(author, len(body))
        self._check(author, bytes_max)
        return body

    def _release_at_the_end(self, author: str, size: int) -> None:
        """Of the task, which is the request."""
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _task: self._hold(author, -size))

    def _check(self, author: str, bytes_max: int) -> None:
        if self._left_bytes < 0:
            raise unavailable("too many requests are being read")
        share = self._total_bytes_max // (_SHARE if author else _SHARE_OF_NOBODY)
        if self._held.get(author, 0) > max(share, bytes_max):
            raise unavailable("too many requests of this caller are being read")

    async def _read(self, scope: Scope, receive: Receive, bytes_max: int, author: str) -> bytes:
        if _announced(scope) > bytes_max:
            raise too_large(f"the body has more than the {bytes_max:,} bytes allowed")
        chunks: list[bytes] = []
        size = 0
        is_kept = False
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                self._hold(author, len(chunk))
                if size > bytes_max:
                    raise too_large(f"the body has more than the {bytes_max:,} bytes allowed")
                self._check(author, bytes_max)
                if not message.get("more_body", False):
                    is_kept = size > AT_ONCE_BYTES_MAX  # it waits for its turn to be read
                    return b"".join([*chunks, chunk]) if chunks else chunk
                chunks.append(chunk)
        finally:
            if is_kept:
                self._release_at_the_end(author, size)
            else:
                self._hold(author, -size)

    def _hold(self, author: str, size: int) -> None:
        self._left_bytes -= size
        held = self._held.get(author, 0) + size
        if held:
            self._held[author] = held
        else:
            self._held.pop(author, None)


def too_large(detail: str) -> Problem:
    """413: something exceeds its limit, and nothing was taken."""
    return Problem("too-large", detail)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # the server has checked it
    return 0
