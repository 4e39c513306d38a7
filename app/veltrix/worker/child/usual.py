"""What steps start may be ended, and may start processes, as from any other program."""

import os
import signal
from multiprocessing import process
from typing import Any

from veltrix.pipeline.execute.coroutines import forks


def be_usual() -> None:
    """In a child's main thread, before its first step.

    A signal that is ignored stays so in the programs that a process starts, and one that is handled
    does not: so SIGTERM and Ctrl-C, which are for the parent, are handled by nothing.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _take_no_notice)
    forks.watch_forks()
    # billiard calls its children daemons, which may have no children of their own: for Python's
    # multiprocessing this is a main process, which has none yet.
    module: Any = process
    module._current_process = _Main()  # noqa: SLF001
    module._children = set()  # noqa: SLF001


class _Main(process.BaseProcess):
    """What Python's own main process is; its class is not to be had."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = self._popen = None
        self._closed = False
        authkey: Any = process.AuthenticationString  # type: ignore[attr-defined]
        self._config = {"authkey": authkey(os.urandom(32)), "semprefix": "/mp"}

    def close(self) -> None:
        """It has no resources of its own."""


def _take_no_notice(_signal: int, _frame: object) -> None:
    """It is for the parent."""
