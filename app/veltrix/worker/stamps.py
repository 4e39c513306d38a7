"""Signs of life in shared memory: the parent's and each child's last monotonic time.

Made before the fork in a file, so that the parent, the children and the health sidecar see the same
page. CLOCK_MONOTONIC is one clock for all processes of a machine.
"""

import fcntl
import mmap
import os
from pathlib import Path
from struct import Struct

_SLOT = Struct("=qd")  # pid, monotonic seconds
SLOTS_MAX = 1024
PARENT = 0
CONSUMING_S = 3.0  # without the parent's stamp; then it does not consume


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Stamps:
    """A table of (pid, time): slot 0 is the parent, the others are taken by children in turn.

    A child stamps while it lives, the parent while it consumes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            path.write_bytes(bytes(_SLOT.size * SLOTS_MAX))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SLOT.size * SLOTS_MAX)
        self._pids = memoryview(self._memory).cast("q")
        self._times = memoryview(self._memory).cast("d")

    def stamp(self, slot: int, pid: int, monotonic_s: float) -> None:
        """This process is alive now."""
        # One aligned store each: pack_into clears first, and a reader between would see time 0.
        if self._pids[2 * slot] != pid:
            self._times[2 * slot + 1] = monotonic_s
            self._pids[2 * slot] = pid
        self._times[2 * slot + 1] = monotonic_s

    def read(self, slot: int) -> tuple[int, float]:
        """(pid, time) of a slot; pid 0 if nobody ever took it."""
        return int(self._pids[2 * slot]), float(self._times[2 * slot + 1])

    def seen(self, pid: int) -> float | None:
        """When the child `pid` last stamped, or None if it never did."""
        slot = self.slot_of(pid)
        return None if slot is None else self.read(slot)[1]

    def slot_of(self, pid: int) -> int | None:
        """The slot that the child `pid` took, or None if it never did."""
        for slot in range(1, SLOTS_MAX):
            stamped, _ = self.read(slot)
            if stamped == pid:
                return slot
            if stamped == 0:
                return None
        return None

    def take_slot(self, own_pid: int, monotonic_s: float) -> int:
        """A slot for this child, stamped: a free one, or one of a process that is no more.

        Behind a lock of the file: two children that start at once would take the same slot, and the
        parent would not see that one of them has fallen silent.
        """
        with self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
            for slot in range(1, SLOTS_MAX):
                pid, _ = self.read(slot)
                if pid in (0, own_pid) or not _exists(pid):
                    self.stamp(slot, own_pid, monotonic_s)
                    return slot
        raise RuntimeError(f"more than {SLOTS_MAX} children")
