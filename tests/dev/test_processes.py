"""The supervisor passes output on, starts again what dies, and leaves nothing behind."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import is_alive
from tests.support.wait import until
from veltrix.dev.processes import Spec, Supervisor

GREET = "import sys, time; print('hello'); print('trouble', file=sys.stderr); time.sleep(600)"
DIE = "import sys; sys.stdout.write('no end of line'); sys.exit(3)"
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf');"
    " time.sleep(600)"
)


class Told:
    """What the supervisor said, and a clock that a test moves."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[tuple[str, str]] = []
        self.ahead_s = 0.0
        self.supervisor = Supervisor(
            folder, cwd=folder, say=lambda *line: self.lines.append(line), clock=self._clock
        )

    def _clock(self) -> float:
        import time

        return time.monotonic() + self.ahead_s

    def start(self, name: str, script: str, log: Path | None = None) -> int:
        argv = (sys.executable, "-u", "-c", script)
        return self.supervisor.start(Spec(name, argv, dict(os.environ), log)).pid

    def wait_for(self, name: str, line: str) -> None:
        def is_told() -> bool:
            self.supervisor.tick(0.01)
            return any(who == name and line in what for who, what in self.lines)

        until(is_told, what=f"{name} to say {line!r}")


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    told = Told(tmp_path)
    told.supervisor.open()
    yield told
    told.supervisor.close(grace_s=0)


def test_each_line_of_output_is_passed_on_under_its_name(told: Told) -> None:
    told.start("api", GREET)
    told.start("relay", GREET)

    told.wait_for("api", "hello")
    told.wait_for("api", "trouble")
    told.wait_for("relay", "hello")

    assert told.lines.count(("api", "hello")) == 1


def test_output_goes_to_a_log_when_one_is_named(told: Told, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "api.log"

    told.start("api", GREET, log)

    until(lambda: log.read_text() == "hello\ntrouble\n", what="the log")
    assert told.lines == []


def test_what_dies_is_started_again_after_a_pause_that_doubles(told: Told) -> None:
    first = told.start("worker", DIE)
    told.wait_for("worker", "ended with exit code 3; starting it again in 0.5 s")
    assert ("worker", "no end of line") in told.lines
    told.supervisor.tick(0.05)
    assert told.supervisor.child("worker").pid == first

    told.ahead_s += 0.5
    told.wait_for("worker", "starting it again in 1 s")

    assert told.supervisor.child("worker").pid != first
    for pause in ("2 s", "4 s", "8 s", "10 s"):
        told.ahead_s += 10
        told.wait_for("worker", f"starting it again in {pause}")


def test_a_death_after_a_steady_life_is_no_reason_for_a_long_pause(told: Told) -> None:
    pid = told.start("worker", GREET)
    os.kill(pid, signal.SIGKILL)
    told.wait_for("worker", "ended by SIGKILL; starting it again in 0.5 s")
    told.ahead_s += 1
    told.lines.clear()
    told.wait_for("worker", "hello")

    told.ahead_s += 31
    os.kill(told.supervisor.child("worker").pid, signal.SIGKILL)

    told.wait_for("worker", "ended by SIGKILL; starting it again in 0.5 s")


def test_closing_asks_all_and_kills_only_those_that_do_not_listen(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.supervisor.open()
    pids = [told.start("polite", GREET), told.start("deaf", DEAF)]
    told.wait_for("polite", "hello")
    told.wait_for("deaf", "deaf")

    killed = told.supervisor.close(grace_s=0.5)

    assert killed == ["deaf"]
    assert not any(is_alive(pid) for pid in pids)


def test_a_hurried_close_waits_for_nobody(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.supervisor.open()
    pid = told.start("deaf", DEAF)
    told.wait_for("deaf", "deaf")

    killed = told.supervisor.close(grace_s=600, is_hurried=lambda: True)

    assert killed == ["deaf"]
    assert not is_alive(pid)


def test_what_is_restarted_is_asked_to_end_and_starts_without_a_pause(told: Told) -> None:
    first = told.start("worker", GREET)
    told.wait_for("worker", "hello")
    told.lines.clear()

    told.supervisor.restart("worker")
    told.wait_for("worker", "hello")

    assert told.supervisor.child("worker").pid != first
    assert not is_alive(first)
    assert not any("starting it again" in line for _, line in told.lines)
