"""How fast the workload goes: a rate that somebody set, or one at which it lasts as long as faults.

Without a rate the load lasts until the last fault is over: events left, divided by the time that
the faults are still expected to take, looked at again as they go.
"""

import time
from threading import Lock

RATE_MAX = 100_000.0
_RATE_MIN = 20.0
# Faults are to be seen by themselves: beyond this, what two cores show after one is how fast they
# work off a backlog. With two of every process, the witness and single events beside it they settle
# 300 to 500 a second; RabbitMQ is away for 12 s, and what waited is to be taken up within 10.
# What is left at the end goes as fast as it can.
_RATE_MAX_AMONG_FAULTS = 150.0


class SendPace:
    """Asked by the workload before each request, told by the scenario how long it has to last."""

    def __init__(self, events: int, rate: float | None) -> None:
        self._left, self._fixed = events, rate
        self._end_at: float | None = None
        self._lock = Lock()

    def must_last(self, seconds: float) -> None:
        """The load shall last so long from now on."""
        with self._lock:
            self._end_at = time.monotonic() + seconds

    def hurry(self) -> None:
        """Nothing more to wait for: what is left goes as fast as it can, or at the rate set."""
        with self._lock:
            self._end_at = None

    def took(self, events: int) -> None:
        """So many have been taken to be sent."""
        with self._lock:
            self._left -= events

    @property
    def rate(self) -> float:
        """Events per second, now."""
        if self._fixed is not None:
            return self._fixed
        with self._lock:
            if self._end_at is None:
                return RATE_MAX
            seconds = max(0.5, self._end_at - time.monotonic())
            return min(_RATE_MAX_AMONG_FAULTS, max(_RATE_MIN, self._left / seconds))
