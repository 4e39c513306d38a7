"""The private folder of a worker goes with it; what a killed one left is removed by the next."""

import os
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from app.worker.run import remove_abandoned


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = tmp_path / "veltrix-worker-abc"
    (made / "metrics").mkdir(parents=True)
    (made / "lock").touch()
    os.utime(made, (1_000, 1_000))
    return made


def test_a_folder_nobody_holds_is_removed(folder: Path) -> None:
    remove_abandoned(now=1_061)

    assert not folder.exists()


def test_a_folder_in_use_stays(folder: Path) -> None:
    with (folder / "lock").open() as lock:
        flock(lock, LOCK_EX)
        remove_abandoned(now=1_061)

    assert folder.exists()


def test_a_folder_that_was_just_made_stays(folder: Path) -> None:
    remove_abandoned(now=1_010)

    assert folder.exists()


def test_what_is_not_a_workers_stays(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "veltrix-bench-abc")
    remove_abandoned(now=1_061)

    assert (tmp_path / "veltrix-bench-abc").exists()
