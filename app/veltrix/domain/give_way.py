"""Long work in a thread beside an event loop, in steps: between two of them the loop goes on.

A step is a call into C, which holds the interpreter for some milliseconds. Right after it another
thread may have it, for a moment; who needs it at each of a hundred sockets stands still.
"""

from collections.abc import Callable
from threading import local

LONG_BYTES = 16 * 1024  # what is less is a step by itself


class _Here(local):
    """Of each thread. None: it keeps nobody waiting."""

    between_steps: Callable[[], None] | None = None


_here = _Here()


def give_way() -> None:
    """A step has ended, and another begins."""
    if _here.between_steps is not None:
        _here.between_steps()


def give_way_by(between_steps: Callable[[], None]) -> None:
    """In this thread `give_way` calls it."""
    _here.between_steps = between_steps
