"""What a child is stuck on: for `/readyz` and the metrics each time, for the log now and then."""

from collections.abc import Callable

from veltrix import telemetry
from veltrix.worker.troubles import Troubles

_SAY_S = 10.0  # between two log lines about one trouble


class Stuck:
    """Of one child; any of its threads may say something."""

    def __init__(self, troubles: Troubles, monotonic: Callable[[], float]) -> None:
        self._troubles, self._monotonic = troubles, monotonic
        self._said: dict[str, float] = {}  # by trouble: when it was last logged

    def say(self, trouble: str, detail: str | None) -> None:
        """It is stuck on `trouble`, for this reason; None: no longer."""
        if detail is None:
            self._troubles.clear(trouble)
            self._said.pop(trouble, None)
            return
        telemetry.database_errors.labels(trouble).inc()
        self._troubles.set(trouble, detail)
        now = self._monotonic()
        if now - self._said.get(trouble, -_SAY_S) >= _SAY_S:
            self._said[trouble] = now
            telemetry.logger("worker").warning("worker.stuck", trouble=trouble, detail=detail)
