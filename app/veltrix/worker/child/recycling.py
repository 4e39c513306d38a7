"""Recycling: a child that has run enough, or has grown too large, is replaced between two lists."""

import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import billiard.pool

from veltrix import telemetry
from veltrix.leaving import end_within
from veltrix.settings.fields import Settings
from veltrix.worker.child.begin_end import close_all
from veltrix.worker.troubles import Troubles

_STATM = Path("/proc/self/statm")
_CLOSE_S = 5.0  # for the resources of a child that is replaced; the parent takes it for free


def memory_bytes() -> int:
    """What this process holds in memory now; where that cannot be asked, the most it ever held."""
    try:
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


class Recycling:
    """Of one child. It ends when its answer to a list is with the parent, never in a run.

    Ending so is no crash: the parent gives what it had given to this child to another.
    """

    def __init__(self, settings: Settings, troubles: Troubles, memory: Callable[[], int]) -> None:
        self._runs_max, self._memory_max = settings.child_runs_max, settings.child_memory_max
        self._memory = memory
        self.runs = 0
        if self._memory_max and memory() >= self._memory_max:
            # It would be replaced after each list, by one that is no smaller.
            mib = memory() // 2**20
            said = f"VELTRIX_CHILD_MEMORY_MAX is below what a child has at its start ({mib} MiB)"
            troubles.set("memory", f"{said}: children are not replaced for it", stops_work=False)
            self._memory_max = 0

    def reason(self) -> str | None:
        """Why the child is to be replaced now, if it is."""
        if self._runs_max and self.runs >= self._runs_max:
            return "runs"
        if self._memory_max and self._memory() >= self._memory_max:
            return "memory"
        return None

    def install(self) -> None:
        """From now on billiard asks here, after each job, whether the child has grown too large."""
        billiard.pool.mem_rss = self._end_if_spent

    def _end_if_spent(self) -> int:
        why = self.reason()
        if why is not None:
            telemetry.children_recycled.labels(why).inc()
            telemetry.logger("worker").info(
                "child.recycled", reason=why, runs=self.runs, memory_bytes=self._memory()
            )
            end_within(
                _CLOSE_S, code=billiard.pool.EX_RECYCLE
            )  # whatever hangs in what authors wrote
            close_all()
            end_processes()
            # Billiard would wait for a second first, while the parent takes the child for free.
            os._exit(billiard.pool.EX_RECYCLE)
        return 1


def end_processes() -> None:
    """What steps started with multiprocessing and left behind ends with its child."""
    for process in multiprocessing.active_children():
        process.terminate()
