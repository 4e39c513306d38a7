"""The end of a worker that was told to leave comes within its grace, whatever else happens."""

import os
import signal
from collections.abc import Callable, Iterable
from types import FrameType

from app import telemetry
from app.worker.silent import kill

_LAST_S = 1.5  # children that hang are ended by their watch before, at 5 s


def end_within(grace_s: float, children: Callable[[], Iterable[int]]) -> None:
    """Shortly before `grace_s` from now this process and its `children` are ended by force.

    A timer of the kernel's: a child that hangs in a job without a list, a loop that waits for an
    answer, a pool that cannot be joined, none of them is waited for. Nothing is lost: what children
    hold comes due, what waits here was not acknowledged.
    """

    def end(_signal: int, _frame: FrameType | None) -> None:
        telemetry.logger("worker").warning("worker.ended", reason="grace")
        for pid in children():
            kill(pid, signal.SIGKILL)
        os._exit(os.EX_OK)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(0.5, grace_s - _LAST_S))
