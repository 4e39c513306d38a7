"""Request bodies, read with a limit while they come: never more in memory than is allowed."""

from starlette.types import Receive, Scope

from app.api.problems import Problem, unavailable


class Disconnected(Exception):
    """The client has gone away before the end of its request: there is nobody to answer."""


class BodyReader:
    """Reads the bodies of one server; together they take at most `total_bytes_max`."""

    def __init__(self, total_bytes_max: int) -> None:
        self._left_bytes = total_bytes_max

    async def read(self, scope: Scope, receive: Receive, bytes_max: int) -> bytes:
        """The whole body. Raises Disconnected when the client goes away.

        Raises a 413 Problem as soon as it has, or announces, more than `bytes_max`, and a 503
        Problem when this server holds too many bodies.
        """
        if _announced(scope) > bytes_max:
            raise too_large(f"the body has more than the {bytes_max:,} bytes allowed")
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                self._left_bytes -= len(chunk)
                if size > bytes_max:
                    raise too_large(f"the body has more than the {bytes_max:,} bytes allowed")
                if self._left_bytes < 0:
                    raise unavailable("too many requests are being read")
                if not message.get("more_body", False):
                    return b"".join([*chunks, chunk]) if chunks else chunk
                chunks.append(chunk)
        finally:
            self._left_bytes += size


def too_large(detail: str) -> Problem:
    """413: something exceeds its limit, and nothing was taken."""
    return Problem(413, "too-large", detail)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # the server has checked it
    return 0
