"""Jobs that go before lists: what the parent has to write, by its next free child."""

from collections import deque
from collections.abc import Iterable

from veltrix.domain.backoff import Backoff
from veltrix.worker.jobs import Job, RegisterJob

_PAUSE_S, _PAUSE_S_MAX = 1.0, 30.0


class Urgent:
    """A line of jobs. One that failed goes again: at once if its child died, else after a pause.

    The pause grows while jobs fail. Times are monotonic seconds.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = deque(jobs)
        self._children: set[int] = set()
        self._backoff = Backoff(_PAUSE_S, _PAUSE_S_MAX)

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """One more."""
        self._jobs.append(job)

    def meet(self, children: Iterable[int]) -> None:
        """The pids of all children: when one is new, register again, by whoever is free.

        A child reports from its first job on. One that replaced the only child that had any would
        not be heard of, and its worker would be taken for gone.
        """
        there = set(children)
        is_waiting = any(isinstance(job, RegisterJob) for job in self._jobs)
        if self._children and there - self._children and not is_waiting:
            self.add(RegisterJob())
        self._children = there

    def put_off(self, job: Job, failed: float | None) -> None:
        """Again; `failed` is when, or None if its child died and the job is not to blame."""
        self._jobs.append(job)
        if failed is not None:
            self.failed(failed)

    def may_go(self, now: float) -> bool:
        """Nothing failed just now."""
        return self._backoff.is_over(now)

    def failed(self, now: float) -> None:
        """Something that goes before lists failed, and its child lives: a pause for all of it."""
        self._backoff.extend(now)

    def take(self, now: float) -> Job | None:
        """The next to go; None while there is none, or a pause."""
        return self._jobs.popleft() if self._jobs and self.may_go(now) else None

    def leave(self) -> None:
        """The worker leaves: who it is needs no more to be known."""
        self._jobs = deque(job for job in self._jobs if not isinstance(job, RegisterJob))

    def done(self) -> None:
        """One was done: the next pause is short again."""
        self._backoff.reset()
