"""Who calls without a key that may: counted, and a line each second, whoever floods."""

from collections import Counter
from collections.abc import Callable
from threading import Lock
from time import monotonic

from veltrix.telemetry import auth_failures, logger

SAY_S = 1.0

_log = logger("api")


class AuthFailures:
    """Counts by reason: `missing`, `unknown`, `expired`, `sign_in`. Thread-safe."""

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now, self._lock = now, Lock()
        self._said_at = float("-inf")
        self._unsaid: Counter[str] = Counter()

    def note(self, reason: str) -> None:
        """One more; said now, or with the next that comes a second after the last line."""
        auth_failures.labels(reason).inc()
        with self._lock:
            self._unsaid[reason] += 1
            now = self._now()
            if now - self._said_at < SAY_S:
                return
            self._said_at, said = now, dict(self._unsaid)
            self._unsaid.clear()
        _log.warning("auth.failed", **said)
