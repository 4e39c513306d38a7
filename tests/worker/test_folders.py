"""The private folder of a worker goes with it; what a killed one left is removed by the next."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wait import until
from veltrix.processes.worker import make_folder, remove_abandoned

HOLD = (
    "import os, sys; from veltrix.processes.worker import make_folder as make;"
    " print(make(), flush=True);"
    " os.execv(sys.executable, [sys.executable, '-c', 'import sys; sys.stdin.read()'])"
)


def arguments_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_folder_stays_until_its_process_is_killed_though_it_replaced_itself(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        until(lambda: b"make_folder" not in arguments_of(holder.pid), what="it to replace itself")
        remove_abandoned()
        assert (folder / "metrics").is_dir()
        holder.kill()
    remove_abandoned()

    assert not folder.exists()


def test_a_folder_of_this_process_stays() -> None:
    folder = make_folder()
    remove_abandoned()

    assert folder.exists()


def test_what_is_not_a_workers_or_has_no_lock_stays(tmp_path: Path) -> None:
    (tmp_path / "veltrix-worker-new").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lock").touch()
    remove_abandoned()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "veltrix-worker-new"]
