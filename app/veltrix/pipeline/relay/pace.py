"""The pace of a relay: how often it looks at its queues, and how long it pauses between due scans.

Seconds of the caller's monotonic clock.
"""

from veltrix.pipeline.relay.budget import Budget
from veltrix.settings.fields import Settings

BUDGET_S, BUDGET_IDLE_S = 0.25, 1.0
BUDGET_FULL_S = 0.01
LOOK_SHARE = 0.05  # of a process's time may be spent on looking
REST_S = 0.5  # between two due scans while there is nothing to expect
_LONG_AGO = -1e9


class Pace:
    """Follows one relay's `budget`; `now` is when the relay began."""

    def __init__(self, settings: Settings, budget: Budget, now: float) -> None:
        self._scan_s, self._hold_s = settings.relay_scan_s, settings.hold_s
        self._budget = budget
        self._looked_at, self._look_s = _LONG_AGO, 0.0
        self._busy_at = now

    def looked(self, began: float, ended: float) -> None:
        """The room was refreshed."""
        self._looked_at, self._look_s = ended, ended - began

    def look_soon(self) -> None:
        """The last look says nothing any more."""
        self._looked_at = _LONG_AGO

    def is_look_due(self, now: float) -> bool:
        """The last look is too old for what goes on."""
        age = now - self._looked_at
        if age < max(BUDGET_FULL_S, min(self._look_s / LOOK_SHARE, BUDGET_S)):
            return False
        if self._budget.is_full:
            return True
        return age >= (BUDGET_S if self._budget.has_given else BUDGET_IDLE_S)

    def pause_s(self, now: float, *, is_publishing: bool) -> float:
        """How long to pause after a round that had no work."""
        if is_publishing or self._budget.is_full:
            return min(BUDGET_FULL_S, self._scan_s)
        if not self._budget.is_quiet:
            self._busy_at = now
        # A look leaves out what is due within a hold from now, but the looks before saw it.
        is_resting = now - self._busy_at >= self._hold_s
        return max(self._scan_s, REST_S if is_resting else 0.0)
