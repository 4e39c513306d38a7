"""Runs that a worker's parent hands back though all of its children are busy.

The parent opens no connection to the database, and a child that executes a list takes no job. But
each child has a watch that has a connection of its own: whichever looks first takes what is here.
"""

import select
import socket

import msgspec

# Of one datagram: macOS takes no larger ones. A list of run ids may need several.
_IDS_MAX = 40
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, list[bytes]]).decode
_BYTES_MAX = 4_096


class Mailbox:
    """Made before the fork. What is lost with a child that took it comes due after its hold."""

    def __init__(self) -> None:
        self._out, self._in = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._out.setblocking(False)
        self._in.setblocking(False)

    def __del__(self) -> None:
        self._out.close()
        self._in.close()

    def put(self, token: str, run_ids: list[str]) -> bool:
        """These runs, handed over under this token, were begun by nobody; whether there is room."""
        for at in range(0, len(run_ids), _IDS_MAX):
            ids = [bytes.fromhex(one.replace("-", "")) for one in run_ids[at : at + _IDS_MAX]]
            try:
                self._out.send(_encode((token, ids)))
            except OSError:  # full: what is in it already is handed back twice, which is nothing
                return False
        return True

    def take(self) -> tuple[str, list[str]] | None:
        """A token and run ids to hand back; None: there are none. Never waits."""
        try:
            token, ids = _decode(self._in.recv(_BYTES_MAX))
        except BlockingIOError:
            return None
        return token, [_text(one.hex()) for one in ids]

    @property
    def is_empty(self) -> bool:
        """All of it was taken."""
        return not select.select([self._in], [], [], 0)[0]


def _text(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
