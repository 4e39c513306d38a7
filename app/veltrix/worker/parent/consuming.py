"""Whether this worker consumes, as its own loop sees it: each queue heard, each child up.

Only the loop stamps, and only while it is so. A thread that goes on after the loop has ended, which
Celery has one of, says nothing.
"""

import os
import signal
from collections.abc import Collection
from threading import current_thread, main_thread
from typing import Any

from veltrix import telemetry
from veltrix.worker.parent.parts import Parent
from veltrix.worker.parent.silent import kill
from veltrix.worker.stamps import CONSUMING_S, PARENT

CHILDREN_S_MAX = 30.0  # without all children; then the worker ends
_TROUBLE = "consuming"


def children_of(pool: Any) -> list[int]:
    """The pids of a Celery pool's children, but those known to be dead; none: there is no pool."""
    started = getattr(pool, "_pool", None)
    if started is None:
        return []
    # Billiard has no public list; a process that could not be forked has no pid.
    return [one.pid for one in tuple(started._pool) if one.pid is not None]  # noqa: SLF001


def ready_in(pool: Any) -> set[int]:
    """Which of them are up: one that dies before it can take a job is as good as none."""
    starting = {one.pid for one in tuple(pool._pool._waiting_to_start)}  # noqa: SLF001 - as above
    return set(children_of(pool)) - starting


def end_all(pool: Any) -> None:
    """SIGKILL to all of them."""
    for pid in children_of(pool):
        kill(pid, signal.SIGKILL)


class Consuming:
    """Remembers since when something has been missing. Times are monotonic seconds.

    A child that is replaced, or a queue that is listened to anew, may be missing for a moment.
    Where children are replaced all the time (`VELTRIX_CHILD_RUNS_MAX`) some always are: what shows
    that others come, and work, is that each does its first job.
    """

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._seen: float | None = None  # when nothing was missing
        self._full: float | None = None  # when all children were there
        self._came: float | None = None  # when one did its first job
        self._worked: set[int] = set()
        self._error = ""  # why the last child did not come

    def keep_children(self, pool: Any) -> None:
        """Reap those that died and start others. Whatever keeps them from coming, never raises."""
        try:
            pool.maintain_pool()
        except Exception as error:  # noqa: BLE001 - of the kernel's, or of billiard's after that
            self._error = f" ({type(error).__name__}: {error})"

    def worked(self, pid: int | None, now: float) -> None:
        """This child has done a job."""
        if pid is not None and pid not in self._worked:
            self._worked.add(pid)
            self._came = now

    def note(self, children: Collection[int], deaf: Collection[str], now: float) -> bool:
        """These children are up, and these queues have no consumer of ours that should have one.

        False: children have been missing for too long. Billiard cannot always go on after one that
        could not be forked, so a new worker has to.
        """
        if current_thread() is not main_thread():
            return True
        self._worked.intersection_update(children)
        missing = self._parent.settings.worker_children - len(children)
        if missing <= 0:
            self._full, self._error = now, ""
        if self._full is None:
            self._full = now
        so_at = now if missing <= 0 else self._came
        if so_at is not None and now - so_at < CONSUMING_S and not deaf:
            self._parent.stamps.stamp(PARENT, os.getpid(), so_at)
            self._seen = so_at
            self._parent.troubles.clear(_TROUBLE)
        elif self._seen is None or now - self._seen >= CONSUMING_S:
            self._parent.troubles.set(_TROUBLE, self._told(missing, deaf))
        if now - max(self._full, self._came or self._full) < CHILDREN_S_MAX:
            return True
        telemetry.logger("worker").error("worker.crippled", missing=missing, error=self._error)
        return False

    def _told(self, missing: int, deaf: Collection[str]) -> str:
        told = []
        if missing > 0:
            told.append(f"{missing} of its children are missing{self._error}")
        if deaf:
            some = ", ".join(sorted(deaf)[:5])
            told.append(f"{len(deaf)} of its queues have no consumer of it: {some}")
        return "; ".join(told)
