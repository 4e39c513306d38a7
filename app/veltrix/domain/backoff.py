"""Pauses that double: between attempts, for one thing at a time."""


class Backoff:
    """`extend` after a failure, `reset` after a success. Times are monotonic seconds."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._next_s = first_s
        self._until = float("-inf")

    def is_over(self, now: float) -> bool:
        """It may be tried again."""
        return now >= self._until

    def is_calm(self, now: float) -> bool:
        """The last pause is over for as long as the longest one: what comes now is a new story."""
        return now >= self._until + self._max_s

    def extend(self, now: float) -> float:
        """Pause, twice as long as the last time; how long."""
        pause_s = min(self._next_s, self._max_s)
        self._until = now + pause_s
        self._next_s = pause_s * 2
        return pause_s

    def reset(self) -> None:
        """It worked: no pause, and the next one is short again."""
        self._next_s = self._first_s
        self._until = float("-inf")


class Pauses:
    """A back-off for each name. A name that was well for long enough begins anew."""

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._of: dict[str, Backoff] = {}

    def is_over(self, name: str, now: float) -> bool:
        """It may be tried."""
        return name not in self._of or self._of[name].is_over(now)

    def extend(self, name: str, now: float) -> float | None:
        """Pause it; how long, or None if it pauses already."""
        backoff = self._of.setdefault(name, Backoff(self._first_s, self._max_s))
        if backoff.is_calm(now):
            backoff.reset()
        return backoff.extend(now) if backoff.is_over(now) else None

    def forget(self, name: str) -> None:
        """It may be tried now, and its next pause is short again."""
        self._of.pop(name, None)

    def clear(self) -> None:
        """None of them pauses."""
        self._of.clear()
