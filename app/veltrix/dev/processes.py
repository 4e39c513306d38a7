"""A small supervisor: named child processes, their output, their restarts, their end."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from veltrix.dev.children import Child, Leash, kill_all

_BACKOFF_S_MIN = 0.5
_BACKOFF_S_MAX = 10.0
_STEADY_S = 30.0
_READ_BYTES = 65_536


@dataclass(frozen=True)
class Spec:
    """What to run, under which name; output goes to `log`, or line by line to `say`.

    `end` is the signal that asks it to finish.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path | None = None
    end: signal.Signals = signal.SIGTERM


@dataclass
class _Entry:
    spec: Spec
    child: Child
    since: float
    backoff_s: float = _BACKOFF_S_MIN
    start_at: float | None = None
    rest: bytes = field(default=b"", repr=False)


class Supervisor:
    """Child processes under names, in one folder, that never outlive this process.

    `say(name, line)` gets each line they print. Not thread-safe: one thread that outlives the
    children starts them and calls the rest.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cwd: Path,
        say: Callable[[str, str], None] = lambda _name, _line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leash = Leash(folder)
        self._cwd = cwd
        self._say = say
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._outputs = selectors.DefaultSelector()

    def open(self) -> None:
        """Own the folder; what a killed predecessor left running is ended."""
        self._leash.open()

    def start(self, spec: Spec) -> Child:
        """Start it now, in a session of its own; its name must not be running."""
        known = self._entries.get(spec.name)
        assert known is None or not known.child.is_running, f"{spec.name} is running"
        if known is not None:
            self._forget_output(known)
        child = self._spawn(spec)
        entry = _Entry(spec, child, self._clock())
        if known is not None:
            entry.backoff_s = known.backoff_s
        self._entries[spec.name] = entry
        if child.popen.stdout is not None:
            os.set_blocking(child.popen.stdout.fileno(), False)
            self._outputs.register(child.popen.stdout, selectors.EVENT_READ, spec.name)
        return child

    def child(self, name: str) -> Child:
        """The newest process under a name, running or not."""
        return self._entries[name].child

    def restart(self, name: str) -> None:
        """Ask it to finish, and start it again when it has: without a pause, as `tick` goes on."""
        entry = self._entries[name]
        entry.start_at, entry.backoff_s = self._clock(), _BACKOFF_S_MIN
        if entry.child.is_running:
            entry.child.popen.send_signal(entry.spec.end)

    def tick(self, wait_s: float) -> None:
        """Pass on what the children print, for about `wait_s`; start again what died.

        The pause before doubles with each death, to 10 s, and begins anew after 30 s of life.
        """
        self._forward(wait_s)
        for name, entry in list(self._entries.items()):
            if entry.child.is_running:
                continue
            now = self._clock()
            if entry.start_at is None:
                if now - entry.since > _STEADY_S:
                    entry.backoff_s = _BACKOFF_S_MIN
                entry.start_at = now + entry.backoff_s
                ended = _how_ended(entry.child.popen.returncode)
                self._say(name, f"{ended}; starting it again in {entry.backoff_s:g} s")
                entry.backoff_s = min(2 * entry.backoff_s, _BACKOFF_S_MAX)
                kill_all(entry.child.family())
            elif now >= entry.start_at:
                kill_all(entry.child.family())
                self.start(entry.spec)

    def close(self, grace_s: float, is_hurried: Callable[[], bool] = lambda: False) -> list[str]:
        """Its signal to each at once, their output until they end, SIGKILL after `grace_s`.

        `grace_s=0`, or `is_hurried()` becoming true, kills at once. Nothing of their families is
        left. The names of those that had to be killed.
        """
        children = [entry.child for entry in self._entries.values()]
        families = [member for child in children for member in child.family()]
        if grace_s > 0:
            for entry in self._entries.values():
                if entry.child.is_running:
                    entry.child.popen.send_signal(entry.spec.end)
        end_at = self._clock() + grace_s
        while any(child.is_running for child in children):
            if self._clock() >= end_at or is_hurried():
                break
            self._forward(0.05)
        late = [child for child in children if child.is_running]
        for child in late:
            child.kill()
        kill_all([*families, *(member for child in children for member in child.family())])
        self._forward(0)
        for entry in self._entries.values():
            self._forget_output(entry)
        self._outputs.close()
        self._leash.close()
        return [child.name for child in late]

    def _spawn(self, spec: Spec) -> Child:
        if spec.log is None:
            return self._leash.spawn(
                spec.name, spec.argv, env=spec.env, cwd=self._cwd, output=subprocess.PIPE
            )
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            return self._leash.spawn(spec.name, spec.argv, env=spec.env, cwd=self._cwd, output=log)

    def _forward(self, wait_s: float) -> None:
        end_at = self._clock() + wait_s
        while True:
            left_s = max(0.0, end_at - self._clock())
            if not self._outputs.get_map():
                time.sleep(left_s)
                return
            ready = self._outputs.select(left_s)
            for key, _ in ready:
                self._read(self._entries[key.data])
            if not ready or left_s == 0:
                return

    def _read(self, entry: _Entry) -> None:
        stdout = entry.child.popen.stdout
        assert stdout is not None
        try:
            piece = os.read(stdout.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not piece:
            self._forget_output(entry)
            return
        *lines, entry.rest = (entry.rest + piece).split(b"\n")
        for line in lines:
            self._say(entry.spec.name, line.decode(errors="replace"))

    def _forget_output(self, entry: _Entry) -> None:
        stdout = entry.child.popen.stdout
        if stdout is None or stdout.closed:
            return
        if entry.rest:
            self._say(entry.spec.name, entry.rest.decode(errors="replace"))
            entry.rest = b""
        self._outputs.unregister(stdout)
        stdout.close()


def _how_ended(returncode: int) -> str:
    if returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}"
    return f"ended with exit code {returncode}"
