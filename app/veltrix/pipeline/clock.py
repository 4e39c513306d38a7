"""The database's time in this process, between two looks at it.

Nothing that two processes compare may be of one machine's clock. What an event is given when it is
accepted (its id, its minute, `accepted_at`) is compared with when a subscription began, so it is
the database's time: as it was at the last look, and this machine's steady clock since then. The
wall clock decides nothing; how far it is off is shown, and refused beyond a bound.
"""

from collections.abc import Callable
from math import ceil, inf

JUMP_S = 0.1  # between two looks; what slews a clock moves it by a hundredth of that
_DRIFT = 2e-4  # of a steady clock; twice what makers of the worst quartz allow
_GRAIN_S = 0.0005


class DatabaseClock:
    """Follows the database's clock. `monotonic` is steady, `unix_s` the wall clock, in seconds."""

    def __init__(
        self, monotonic: Callable[[], float], unix_s: Callable[[], float], offset_s_max: float
    ) -> None:
        self._monotonic, self._unix_s, self._offset_s_max = monotonic, unix_s, offset_s_max
        # The database's time less `monotonic` is between these two, as of `_at`.
        self._least, self._most, self._at = -inf, inf, -inf
        self._wall = 0.0
        self._offset_s: float | None = None

    def forget(self) -> None:
        """The next look may be at another server."""
        self._least, self._most, self._at = -inf, inf, -inf
        self._offset_s = None

    def learn(self, before: float, database_s: float, after: float) -> None:
        """The database said `database_s` (Unix time) between these two moments of `monotonic`.

        The nearest looks count most: a slow one is believed only where it contradicts them.
        """
        slack = (after - self._at) * _DRIFT + _GRAIN_S
        least = max(database_s - after, self._least - slack)
        most = min(database_s - before, self._most + slack)
        if least > most:  # the database's clock was set
            least, most = database_s - after, database_s - before
        self._least, self._most, self._at = least, most, after
        self._wall = self._unix_s() - self._monotonic()
        self._offset_s = self._wall - (least + most) / 2

    @property
    def offset_s(self) -> float | None:
        """How far the wall clock is ahead of the database's; None before the first look."""
        return self._offset_s

    @property
    def spread_s(self) -> float:
        """How far the database's time may be from what is taken for it."""
        return self._most - self._least

    @property
    def is_known(self) -> bool:
        """There was a look."""
        return self._offset_s is not None

    @property
    def has_jumped(self) -> bool:
        """The wall clock moved since the last look, or this machine slept: look again."""
        return abs(self._unix_s() - self._monotonic() - self._wall) > JUMP_S

    def unix_ms(self) -> int:
        """The database's time in milliseconds; never less, more by what a look takes at most.

        So what is accepted after a subscription began is never dated before it. Needs a look.
        """
        now = self._monotonic()
        return ceil((now + self._most + (now - self._at) * _DRIFT) * 1000)

    @property
    def trouble(self) -> str | None:
        """Why this machine's clock is not fit for a server, in words, or None."""
        if self._offset_s is None:
            return None
        certain_s = abs(self._offset_s) - (self._most - self._least) / 2
        if certain_s <= self._offset_s_max:
            return None
        way = "ahead of" if self._offset_s > 0 else "behind"
        return (
            f"the clock of this server is {abs(self._offset_s):.1f} s {way} the database's, more"
            f" than the {self._offset_s_max:g} s allowed (VELTRIX_CLOCK_OFFSET_S_MAX): mend its"
            " time synchronisation"
        )
