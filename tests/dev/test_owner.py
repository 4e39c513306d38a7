"""After SIGKILL of their owner nothing of the embedded servers is left; two owners do not meet."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.processes import is_alive
from tests.support.services import Services
from tests.support.wait import until


def start_owner(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.dev.owner", str(folder)], stdout=subprocess.PIPE, text=True
    )


def servers_of(owner: subprocess.Popen[str]) -> dict[str, int]:
    assert owner.stdout is not None
    pids: dict[str, int] = json.loads(owner.stdout.readline())
    return pids


def mentioning(folder: Path) -> list[str]:
    """Command lines of processes that run from a folder."""
    found = []
    for one in psutil.process_iter():
        try:
            line = " ".join(one.cmdline())
            if str(folder) in line or one.cwd().startswith(str(folder)):
                found.append(line)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_two_owners_run_side_by_side_and_leave_nothing_when_killed(services: Services) -> None:
    folders = [services.folder("owner"), services.folder("owner")]
    owners = [start_owner(folder) for folder in folders]
    pids = [servers_of(owner) for owner in owners]
    everything = [
        member.pid for owner in owners for member in psutil.Process(owner.pid).children(True)
    ]
    assert all(is_alive(pid) for both in pids for pid in both.values())
    assert sum(psutil.Process(pid).name() == "epmd" for pid in everything) == 2

    for owner in owners:
        with owner:
            owner.kill()

    until(
        lambda: not any(is_alive(pid) for pid in everything),
        deadline_s=10,
        what="everything of the killed owners to end",
    )
    assert [line for folder in folders for line in mentioning(folder)] == []
