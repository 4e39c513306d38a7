"""Ctrl-C for commands that look at the database again and again, until somebody has seen enough.

A KeyboardInterrupt in the middle of a statement would break its connection and end in a traceback.
"""

import os
import select
import signal
from types import FrameType
from typing import Any, Self


class CtrlC:
    """In the block the first Ctrl-C ends a pause and no statement; the second interrupts as ever.

    For the main thread.
    """

    def __init__(self) -> None:
        self.is_pressed = False
        self._before: Any = None
        self._reader, self._writer = -1, -1

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        os.close(self._reader)
        os.close(self._writer)

    def pause(self, seconds: float) -> bool:
        """Wait so long, or until Ctrl-C is pressed; whether it was not, and is to go on."""
        select.select([self._reader], [], [], seconds)
        return not self.is_pressed

    def _press(self, _number: int, _frame: FrameType | None) -> None:
        self.is_pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(self._writer, b"!")  # not an Event: setting one in a handler may wait for itself
