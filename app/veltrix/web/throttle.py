"""What one key takes of an api: calls a second, if it has a rate, and calls at once.

Each api counts for itself: through two of them a key may do twice as much.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from time import monotonic

from veltrix.domain.token_bucket import TokenBucket
from veltrix.telemetry import calls_limited
from veltrix.web.auth import LOCAL, Author
from veltrix.web.bodies import too_large
from veltrix.web.problems import Problem


class Throttle:
    """For one event loop. It keeps a count and a bucket for each key that has called, no more."""

    def __init__(self, calls_max: int, steady_s: Callable[[], float] = monotonic) -> None:
        self._calls_max, self._steady_s = calls_max, steady_s
        self._calls: dict[str, int] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def enter(self, author: Author | None) -> None:
        """A call of this key begins; `leave` when it is answered. Raises a 429 Problem."""
        if author is None or author is LOCAL:
            return
        calls = self._calls.get(author.name, 0)
        if calls >= self._calls_max:
            why = f"{calls:,} calls of the key {author.name!r} are being answered here"
            raise _limited("at_once", f"{why}, the most at once", 1)
        self.charge(author, 1)
        self._calls[author.name] = calls + 1

    def leave(self, author: Author | None) -> None:
        """It is answered."""
        if author is not None and author is not LOCAL:
            self._calls[author.name] -= 1

    @contextmanager
    def aside(self, author: Author) -> Iterator[None]:
        """Meanwhile the call is none of those at once: who waits for outcomes has another limit."""
        self.leave(author)
        try:
            yield
        finally:
            if author is not LOCAL:
                self._calls[author.name] += 1

    def charge(self, author: Author, count: int, at_once: int = 1) -> None:
        """Take so many calls from the key's rate, of one request that is `at_once` of them.

        Raises a 429 Problem while there are not so many, and a 413 Problem if there never are.
        """
        limits = author.limits
        if limits is None or limits.rate is None or count < 1:
            return
        most = limits.calls_max
        if at_once > most:
            calls_limited.labels("burst").inc()
            raise too_large(
                f"the key {author.name!r} sends at most {most:,} events or inputs at once (its"
                " burst): send shorter lists"
            )
        now = self._steady_s()
        bucket = self._buckets.get(author.name)
        if bucket is None:
            bucket = self._buckets[author.name] = TokenBucket(limits.rate, most, now)
        # Who comes again pays for all of the list again, also for the call that was taken already.
        wait_s = bucket.take(count, now, again=at_once)
        if wait_s:
            what = f"the key {author.name!r} makes {limits.rate:g} calls a second here"
            raise _limited("rate", f"{what}, {most:,} at once", ceil(wait_s))

    def charge_list(self, author: Author, length: int) -> None:
        """As `charge`, of a list of events or inputs whose request has been charged as one."""
        self.charge(author, length - 1, length)


def _limited(reason: str, detail: str, retry_after_s: int) -> Problem:
    calls_limited.labels(reason).inc()
    headers = {"Retry-After": str(retry_after_s)}
    return Problem("too-many-calls", f"{detail}; try again in {retry_after_s:,} s", headers=headers)
