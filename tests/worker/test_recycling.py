"""A child knows when it has run enough, or grown too large."""

from pathlib import Path

import pytest

from veltrix.settings.fields import Settings
from veltrix.worker.child.recycling import Recycling, memory_bytes
from veltrix.worker.troubles import Troubles

MIB = 2**20


@pytest.fixture
def troubles(tmp_path: Path) -> Troubles:
    return Troubles(tmp_path / "troubles")


def test_without_limits_a_child_stays(troubles: Troubles) -> None:
    child = Recycling(Settings(), troubles, lambda: 10**12)
    child.runs = 10**9

    assert child.reason() is None


def test_a_child_goes_when_it_has_run_enough(troubles: Troubles) -> None:
    child = Recycling(Settings(child_runs_max=100), troubles, memory_bytes)
    child.runs = 99
    assert child.reason() is None
    child.runs = 100

    assert child.reason() == "runs"


def test_a_child_goes_when_it_has_grown_too_large(troubles: Troubles) -> None:
    memory = [100 * MIB]
    child = Recycling(Settings(child_memory_max=200 * MIB), troubles, lambda: memory[0])
    assert child.reason() is None
    memory[0] = 200 * MIB

    assert child.reason() == "memory"
    assert not troubles.read()


def test_a_limit_that_every_child_is_above_is_told_and_does_nothing(troubles: Troubles) -> None:
    child = Recycling(Settings(child_memory_max=MIB), troubles, memory_bytes)

    assert child.reason() is None
    (trouble,) = troubles.read()
    assert "VELTRIX_CHILD_MEMORY_MAX is below what a child has at its start" in trouble.detail
    assert not trouble.stops_work


def test_memory_is_what_the_process_has_now() -> None:
    before = memory_bytes()
    held = bytearray(b"x" * (64 * MIB))
    assert memory_bytes() - before > 60 * MIB
    del held

    assert memory_bytes() - before < 30 * MIB
