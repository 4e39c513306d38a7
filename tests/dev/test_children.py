"""Child processes never outlive their owner for long, and strangers are left alone."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import child_pids, is_alive, sigkill
from tests.support.wait import until
from veltrix.dev.children import CannotStart, Leash, end_recorded

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True);"
    " time.sleep(600)"
)
STUBBORN = [sys.executable, "-c", DEAF]
PARENT_OF_ONE = [
    sys.executable,
    "-c",
    f"import subprocess, time; subprocess.Popen({SLEEP!r}); time.sleep(600)",
]
OWNER = """
import signal, subprocess, sys
from pathlib import Path
from veltrix.dev.children import Leash
leash = Leash(Path(sys.argv[1])); leash.open()
child = leash.spawn(
    "child", {argv!r}, env={{}}, cwd=Path(sys.argv[1]), output=subprocess.DEVNULL
)
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[Leash]:
    leash = Leash(tmp_path)
    leash.open()
    yield leash
    leash.close()


def start_owner(folder: Path, argv: list[str]) -> tuple[subprocess.Popen[str], int]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(argv=argv), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    return owner, int(owner.stdout.readline())


def kill_owner(owner: subprocess.Popen[str]) -> None:
    with owner:
        owner.kill()


def test_a_child_dies_with_its_killed_owner(tmp_path: Path) -> None:
    owner, pid = start_owner(tmp_path, SLEEP)

    kill_owner(owner)

    until(lambda: not is_alive(pid), deadline_s=10, what="the child to die with its owner")


def test_a_grandchild_that_survived_its_killed_owner_is_ended_by_the_next(tmp_path: Path) -> None:
    owner, pid = start_owner(tmp_path, PARENT_OF_ONE)
    (grandchild,) = until(lambda: child_pids(pid), what="the grandchild")
    kill_owner(owner)
    until(lambda: not is_alive(pid), what="the child to die with its owner")
    assert is_alive(grandchild)

    next_owner = Leash(tmp_path)
    next_owner.open()

    assert not is_alive(grandchild)
    next_owner.close()


def test_a_folder_has_one_owner_at_a_time(leash: Leash, tmp_path: Path) -> None:
    child = leash.spawn("child", SLEEP, env={}, cwd=tmp_path, output=subprocess.DEVNULL)

    with pytest.raises(CannotStart, match="is in use by another process"):
        Leash(tmp_path).open()

    assert child.is_running
    child.end()


def test_a_stranger_that_got_a_recorded_number_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP, start_new_session=True) as stranger:
        record = tmp_path / "children.jsonl"
        started = psutil.Process(stranger.pid).create_time() - 60
        entry = {"name": "postgres", "pid": stranger.pid, "started": started}
        record.write_text(json.dumps(entry) + "\n" + '{"name": "torn wri')

        ended = end_recorded(record)

        assert ended == []
        assert stranger.poll() is None
        stranger.kill()


def test_a_child_that_ignores_the_request_to_end_is_killed_with_its_family(
    leash: Leash, tmp_path: Path
) -> None:
    deaf = leash.spawn("deaf", STUBBORN, env={}, cwd=tmp_path, output=subprocess.PIPE)
    parent = leash.spawn("parent", PARENT_OF_ONE, env={}, cwd=tmp_path, output=subprocess.DEVNULL)
    (grandchild,) = until(lambda: child_pids(parent.pid), what="the grandchild")
    assert deaf.popen.stdout is not None
    assert deaf.popen.stdout.readline() == b"deaf\n"

    is_deaf_clean = deaf.end(signal.SIGTERM, grace_s=0.2)
    is_parent_clean = parent.end(signal.SIGTERM, grace_s=5)

    assert (is_deaf_clean, is_parent_clean) == (False, True)
    assert not is_alive(deaf.pid)
    assert not is_alive(grandchild)
    deaf.popen.stdout.close()


def test_closing_ends_what_still_runs(tmp_path: Path) -> None:
    leash = Leash(tmp_path)
    leash.open()
    child = leash.spawn("child", SLEEP, env={}, cwd=tmp_path, output=subprocess.DEVNULL)

    leash.close()

    assert not child.is_running


def test_sigkill_of_one_child_leaves_the_others(leash: Leash, tmp_path: Path) -> None:
    one, other = (
        leash.spawn(name, SLEEP, env={}, cwd=tmp_path, output=subprocess.DEVNULL)
        for name in ("one", "other")
    )

    sigkill(one.pid)

    assert not one.is_running
    assert other.is_running
    other.end()
