"""What the processes of a worker are stuck on is seen by all of them, and ends with them."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from veltrix.health import HealthServer
from veltrix.worker.metric_files import MetricFiles
from veltrix.worker.sidecar import TroublesCollector
from veltrix.worker.troubles import Trouble, Troubles

SAY = """
import sys
from pathlib import Path
from veltrix.worker.troubles import Troubles
Troubles(Path(sys.argv[1])).set("register", "no such table")
print("said", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "troubles"


def test_a_trouble_is_seen_until_it_is_cleared(folder: Path) -> None:
    own, sidecar = Troubles(folder), Troubles(folder)
    assert own.read() == []

    own.set("register", "no such table")
    own.set("broker", "may not declare", stops_work=False)
    assert sidecar.read() == [
        Trouble("broker", "may not declare", os.getpid(), stops_work=False),
        Trouble("register", "no such table", os.getpid()),
    ]
    own.set("register", "permission denied")
    assert sidecar.read()[1].detail == "permission denied"

    own.clear("register")
    own.clear("register")
    own.clear("broker")
    assert sidecar.read() == []


def test_the_trouble_of_a_dead_process_is_gone(folder: Path) -> None:
    troubles = Troubles(folder)
    child = subprocess.Popen(
        [sys.executable, "-c", SAY, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert [t.pid for t in troubles.read()] == [child.pid]
        child.kill()

    assert troubles.read() == []
    assert not list(folder.iterdir())


def test_a_forked_child_has_its_own_and_leaves_its_parents(folder: Path) -> None:
    troubles = Troubles(folder)
    troubles.set("register", "of the parent")
    child = os.fork()
    if child == 0:
        troubles.clear("register")
        os._exit(0)
    os.waitpid(child, 0)

    assert [t.detail for t in troubles.read()] == ["of the parent"]


def test_what_cannot_be_written_raises_nothing(folder: Path, capsys: Any) -> None:
    troubles = Troubles(folder)
    folder.rmdir()
    for _ in range(3):
        troubles.set("register", "no such table")
    troubles.clear("register")

    assert capsys.readouterr().out.count("trouble.unwritten") == 1, "said once"
    assert troubles.read() == []


def test_the_metric_counts_processes_by_trouble(folder: Path, tmp_path: Path) -> None:
    troubles, files = Troubles(folder), MetricFiles(tmp_path)
    troubles.set("register", "no such table")
    told = TroublesCollector(troubles)

    assert b'veltrix_worker_troubles{name="register"} 1.0' in files.text(told)
    troubles.clear("register")
    assert b"veltrix_worker_troubles{" not in files.text(told)


def test_what_is_told_beside_the_checks_decides_nothing() -> None:
    server = HealthServer("127.0.0.1", 0, lambda: {"consuming": True, "troubles": []})
    server.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=5) as answer:
        body = answer.read()
    server.stop()

    assert body == b'{"consuming": true, "troubles": []}'


def test_a_trouble_that_fades_is_told_as_long_as_it_is_said_again(folder: Path) -> None:
    troubles = Troubles(folder)

    troubles.set("list", "KeyError: 'x'", fades_s=60.0)
    assert [t.name for t in troubles.read()] == ["list"]
    troubles.set("list", "KeyError: 'x'", fades_s=-1.0)
    assert troubles.read() == []
    troubles.set("list", "KeyError: 'x'", fades_s=60.0)
    assert [t.name for t in troubles.read()] == ["list"]
