"""Copies of a worker child, made by `os.fork` in an author's code.

A copy has the child's memory and its connections, and believes to be in the middle of the same
list. It may do what the author's code does, and ends where it would return into ours.
"""

import os
import signal
import sys
import threading
import traceback

_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)


class _Process:
    is_copy = False


class _Mask(threading.local):
    before: set[int | signal.Signals]


_mask = _Mask()  # the signals that this thread held before it forked


this = _Process()  # `is_copy` is looked at wherever an author's function returns


def watch_forks() -> None:
    """From now on in this process: who forks it gets a copy that is no worker.

    Signals do to a copy what they do to any program. Programs that steps start (`subprocess`) have
    that by themselves: what is handled here, and not ignored, is as usual after `exec`.
    """
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_let_signals, after_in_child=_become_copy
    )


def _hold_signals() -> None:
    """A signal that a copy gets before it is one would be taken for ours, and come to nothing."""
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _become_copy() -> None:
    this.is_copy = True
    for number in _SIGNALS:
        is_ctrl_c = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)
    _let_signals()


def end_copy(error: BaseException | None) -> None:
    """The end of a copy, at its return from the author's code. Nothing in the child itself."""
    if not this.is_copy:
        return
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            code = 1
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
