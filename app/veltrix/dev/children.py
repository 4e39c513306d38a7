"""Child processes that end with their owner, and the record of them for the next start.

Three nets, because SIGKILL of the owner leaves no time to clean up: the kernel signals the direct
children (PR_SET_PDEATHSIG); every child leads a session of its own, recorded on disk with its
start time; and a lock on the folder, which the kernel drops with the owner, tells a dead run from a
live one.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# Start times come from the kernel's boot time, which NTP may shift a little.
_START_S_TOLERANCE = 2.0
_POLL_S = 0.02


class CannotStart(Exception):
    """A server or folder of the embedded default cannot be used; the message names the cure."""


class Leash:
    """The child processes of one folder: at most one owner at a time, nothing outlives it for long.

    `CannotStart` when another process owns the folder. Call `open` before the first child, `close`
    after the last. Children must be started by a thread that lives as long as they do: the kernel
    takes the end of that thread for the end of the owner.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._record = self.folder / "children.jsonl"
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """Own the folder; what a killed owner left running is ended."""
        if self._lock is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise CannotStart(
                f"{self.folder} is in use by another process: stop it, or choose another folder"
            ) from None
        self._lock = lock
        end_recorded(self._record)

    def close(self) -> None:
        """Give the folder free; children that still run are ended."""
        if self._lock is not None:
            end_recorded(self._record)
            self._lock.close()
            self._lock = None

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: int | IO[bytes],
        user: tuple[int, int] | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> "Child":
        """A child in a session of its own that gets `death_signal` when its owner dies.

        `user` is a (uid, gid) to run as. Standard output and error go to `output`.
        """
        assert self._lock is not None, "open() comes first"
        uid, gid = user if user is not None else (None, None)
        popen = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=None if user is None else [],
            preexec_fn=_tied_to(os.getpid(), death_signal),  # noqa: PLW1509 (prctl is one system call)
        )
        child = Child(name, popen, _started(popen.pid))
        with self._record.open("a") as record:
            entry = {"name": name, "pid": child.pid, "started": child.started}
            record.write(json.dumps(entry) + "\n")
        return child


@dataclass(frozen=True)
class Child:
    """A process we started, and everything it started."""

    name: str
    popen: subprocess.Popen[bytes]
    started: float

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of its session and process group."""
        return self.popen.pid

    @property
    def is_running(self) -> bool:
        """It has not ended; a dead child is reaped by asking."""
        return self.popen.poll() is None

    def family(self) -> list[psutil.Process]:
        """Itself, its descendants and the rest of its session, as far as they run."""
        return family(self.pid, self.started)

    def end(self, how: signal.Signals = signal.SIGTERM, grace_s: float = 10.0) -> bool:
        """Ask it to end; after `grace_s` it is killed. Nothing of its family is left.

        False when it had to be killed.
        """
        members = self.family()
        if self.is_running:
            self.popen.send_signal(how)
        try:
            self.popen.wait(timeout=grace_s)
            is_clean = True
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            is_clean = False
        kill_all([*members, *self.family()])
        return is_clean

    def kill(self) -> None:
        """SIGKILL to this process alone, as a fault would; reaped when this returns."""
        self.popen.kill()
        self.popen.wait()


def _tied_to(owner: int, death_signal: signal.Signals) -> Callable[[], None]:
    def tie() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != owner:  # the owner died before the kernel knew
            os._exit(1)

    return tie


def _started(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return time.time()


def end_recorded(record: Path) -> list[int]:
    """End with SIGKILL what the record names and still runs, with its session; the pids ended."""
    if not record.exists():
        return []
    ended: list[int] = []
    for line in record.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the owner was killed while it wrote
            continue
        ended += kill_all(family(entry["pid"], entry["started"]))
    record.unlink()
    return ended


def family(leader: int, started: float) -> list[psutil.Process]:
    """The leader, its descendants and the rest of its session, as far as they run.

    A leader that started at another time is a stranger who got the same number: nothing then.
    """
    found: dict[int, psutil.Process] = {}
    try:
        first = psutil.Process(leader)
        if abs(first.create_time() - started) > _START_S_TOLERANCE:
            return []
        found = {one.pid: one for one in [first, *first.children(recursive=True)]}
    except psutil.Error:
        pass
    for other in psutil.process_iter():
        try:
            if (
                os.getsid(other.pid) == leader
                and other.create_time() >= started - _START_S_TOLERANCE
            ):
                found[other.pid] = other
        except (OSError, psutil.Error):
            continue
    return list(found.values())


def kill_all(processes: Iterable[psutil.Process], deadline_s: float = 10.0) -> list[int]:
    """SIGKILL to each, and wait until the kernel has ended them; their pids."""
    alive = list(processes)
    for one in alive:
        with contextlib.suppress(psutil.Error):
            one.kill()
    wait_for(lambda: all(_has_ended(one) for one in alive), deadline_s=deadline_s)
    return [one.pid for one in alive]


def _has_ended(one: psutil.Process) -> bool:
    try:  # never psutil's wait(): it would take the exit status from the Popen of a direct child
        return not one.is_running() or bool(one.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def wait_for(
    ready: Callable[[], bool], *, deadline_s: float, alive: Callable[[], bool] = lambda: True
) -> bool:
    """True as soon as `ready()` says so; False when `alive()` ends or the deadline passes."""
    end_at = time.monotonic() + deadline_s
    while time.monotonic() < end_at:
        if ready():
            return True
        if not alive():
            return False
        time.sleep(_POLL_S)
    return False


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, or a sentence that there is none."""
    if not path.exists():
        return f"(no log at {path})"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
