"""Children that fall silent in the middle of a job are ended."""

import os
import signal
from collections.abc import Iterable

from veltrix import telemetry
from veltrix.worker.stamps import Stamps


class SilentChildren:
    """Ends busy children whose watch has not stamped for `silent_s`, each once.

    C code that keeps the interpreter's lock stops the watch as well, so nobody else would.
    """

    def __init__(self, stamps: Stamps, silent_s: float) -> None:
        self._stamps, self._silent_s = stamps, silent_s
        self._killed: set[int] = set()

    def end(self, busy: Iterable[int], now: float) -> None:
        """Look at these children."""
        for pid in busy:
            seen = self._stamps.seen(pid)
            if seen is not None and now - seen > self._silent_s and pid not in self._killed:
                telemetry.logger("worker").warning(
                    "child.silent", pid=pid, seconds=round(now - seen, 1)
                )
                telemetry.children_killed.labels("silent").inc()
                self._killed.add(pid)
                kill(pid, signal.SIGKILL)

    def has_ended(self, pid: int | None) -> bool:
        """Whether this child was ended for its silence."""
        return pid in self._killed


def kill(pid: int, signal_: int) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, signal_)
    except ProcessLookupError:
        return
