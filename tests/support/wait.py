"""Waiting for a condition with a deadline: what tests do instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.01


def until(condition: Callable[[], T], deadline_s: float = 30.0, what: str = "the condition") -> T:
    """The first truthy value of `condition()`, asked every 10 ms.

    AssertionError, with `what` and the last value seen, when the deadline passes without one.
    """
    end_at = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end_at:
            raise AssertionError(f"waited {deadline_s} s for {what}; last seen: {value!r}")
        time.sleep(_POLL_S)
