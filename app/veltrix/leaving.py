"""The end of a process that was told to leave comes within its time, whatever hangs."""

import faulthandler
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from types import FrameType

from veltrix import telemetry

_LAST_S = 0.5  # for what is done and said last; then nobody is asked any more
_is_set = False


def end_now(number: int, _frame: FrameType | None) -> None:
    """For a signal: end at once, with the code that a shell gives for it."""
    os._exit(128 + number)


def told_to_leave(within_s: float) -> Event:
    """An event that SIGTERM or Ctrl-C sets; that long after the first the process is ended.

    For the main thread.
    """
    stop = Event()

    def leave(_signal: int, _frame: FrameType | None) -> None:
        end_within(within_s)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    return stop


def end_within(seconds: float, last: Callable[[], None] = lambda: None, *, code: int = 0) -> None:
    """At the latest so many seconds from now this process is ended, by force and with this code.

    First `last` is called; then where each thread hangs is written to standard error. A timer of
    the kernel's interrupts a call that waits: a lock, an answer that does not come, a pool that
    cannot be joined. Where no Python code runs any more, since C code keeps the interpreter's lock,
    a thread that needs none ends the process with code 1, half a second later and without `last`.
    Nothing is lost: what was not confirmed or committed comes due. The first call counts. For the
    main thread.
    """
    global _is_set  # noqa: PLW0603 - of the process, as its timer is
    if _is_set:
        return
    _is_set = True

    def end(_signal: int, _frame: FrameType | None) -> None:
        # Of the kernel, too: whatever of this hangs, a full pipe for example, is ended.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _LAST_S)
        faulthandler.cancel_dump_traceback_later()
        with suppress(Exception):
            last()
        telemetry.logger("process").warning("process.ended", reason="grace", seconds=seconds)
        with suppress(Exception):
            faulthandler.dump_traceback(all_threads=True)
        os._exit(code)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        faulthandler.dump_traceback_later(seconds + _LAST_S, exit=True)
    except (AttributeError, OSError, RuntimeError, ValueError):  # standard error is closed, no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        faulthandler.dump_traceback_later(seconds + _LAST_S, exit=True, file=nowhere)
