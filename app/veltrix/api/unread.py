"""What was made ready for a client and what it takes of that: whether it still reads."""

import asyncio
import sys
from fcntl import ioctl
from termios import TIOCOUTQ

_NEVER = float("inf")


class UnreadAnswers:
    """The answers of one connection that wait for its client, and until when they may.

    Looked at, not told: a loop says only that all of it has been read, and over TLS not even how
    much there is, only that a part of the answer waits behind the one before. The kernel takes
    nothing more until a third of its megabytes is read, which is progress all the same.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s  # in which something has to be read
        self.given = 0  # bytes of answers that were made ready to be sent
        self._sent = 0  # of these, at the last look
        self._until = _NEVER  # in the loop's time; reading moves it, and nothing else

    def is_waiting(self) -> bool:
        """Something was unread at the last look."""
        return self._until != _NEVER

    def is_over(self, transport: asyncio.Transport, now: float) -> bool:
        """It has had its time to read some of what waits for it."""
        unread = transport.get_write_buffer_size()
        sent = self.given - unread - (queued_bytes(transport) if unread else 0)
        if not unread:
            self._until = _NEVER
        elif sent > self._sent or self._until == _NEVER:
            self._until = now + self.patience_s
        self._sent = sent
        return now >= self._until

    def hurry(self, now: float, patience_s: float) -> None:
        """From here on it has no more than this."""
        self.patience_s = patience_s
        self._until = min(self._until, now + patience_s)


def queued_bytes(transport: asyncio.Transport) -> int:
    """Bytes in the kernel that the client's has not taken; 0 where that cannot be asked."""
    try:
        answer = ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
    except (OSError, ValueError, AttributeError):  # closed meanwhile
        return 0
    return int.from_bytes(answer, sys.byteorder)
