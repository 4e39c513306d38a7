"""Signs of life that parent, children and sidecar share."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from veltrix.worker.stamps import PARENT, Stamps


@pytest.fixture
def stamps(tmp_path: Path) -> Stamps:
    return Stamps(tmp_path / "stamps")


def gone() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def test_nobody_has_stamped_yet(stamps: Stamps) -> None:
    assert stamps.read(PARENT) == (0, 0.0)
    assert stamps.seen(os.getpid()) is None


def test_the_last_stamp_is_seen_by_everybody_who_opens_the_file(tmp_path: Path) -> None:
    stamps, sidecar = Stamps(tmp_path / "stamps"), Stamps(tmp_path / "stamps")

    stamps.stamp(PARENT, 42, 1.5)
    slot = stamps.take_slot(os.getpid(), 2.5)
    assert sidecar.seen(os.getpid()) == 2.5
    stamps.stamp(slot, os.getpid(), 3.5)

    assert sidecar.read(PARENT) == (42, 1.5)
    assert sidecar.seen(os.getpid()) == 3.5


def test_a_child_takes_a_slot_that_no_living_child_has(stamps: Stamps) -> None:
    assert stamps.take_slot(os.getppid(), 1.0) == 1
    assert stamps.take_slot(os.getpid(), 1.0) == 2
    assert stamps.take_slot(os.getpid(), 1.0) == 2, "its own"


def test_the_slot_of_a_dead_child_is_used_again(stamps: Stamps) -> None:
    stamps.stamp(1, gone(), 1.0)
    stamps.stamp(2, os.getppid(), 1.0)

    assert stamps.take_slot(os.getpid(), 1.0) == 1


def test_a_reader_never_sees_a_time_that_nobody_stamped(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path / "stamps")
    stamps.stamp(1, 7, 1.0)
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            stamps.stamp(1, 7, 2.0)

    writer = threading.Thread(target=write)
    writer.start()
    seen = {Stamps(tmp_path / "stamps").read(1)}
    for _ in range(20_000):
        seen.add(stamps.read(1))
    is_over.set()
    writer.join()

    assert seen <= {(7, 1.0), (7, 2.0)}
