"""A rate that may be saved up: so many a second in the long run, and so many at once."""


class TokenBucket:
    """Full at first: `burst` may be taken at once. Times in seconds, by any steady clock."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = float(burst), now

    def take(self, count: int, now: float, again: int = 0) -> float:
        """0.0: so many are taken. Else how long it is until they are there; none is taken.

        `again`: who comes again will need so many. More than `burst` are never there.
        """
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        if self._left >= count:
            self._left -= count
            return 0.0
        return (max(count, again) - self._left) / self._rate
