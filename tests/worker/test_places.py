"""What a child says of its step is what its parent reads when it has died, and no other."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError

from veltrix.authoring.steps import StepCall, step
from veltrix.pipeline.execute.coroutines.execution import PendingStep
from veltrix.settings.fields import Settings
from veltrix.store.crashes import Crash
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.parent.deaths import Death, death_of
from veltrix.worker.parent.parts import Parent
from veltrix.worker.parent.silent import SilentChildren
from veltrix.worker.places import Place, Places
from veltrix.worker.stamps import Stamps
from veltrix.worker.troubles import Troubles

RUN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"


class _Run:
    """As much of an execution as a step needs to say where it is."""

    class claim:  # noqa: N801 - an attribute of the run
        run_id = RUN

    failures: dict[str, Any] = {}  # noqa: RUF012 - never changed

    class limits:  # noqa: N801 - an attribute of the run
        arguments_bytes_max = 4_000


@step
def charge(card: str) -> None:
    del card


def pending(position: str = "2", arguments: str = '[["4711"],{}]') -> PendingStep:
    call = StepCall(charge, ("4711",), {})
    call.is_accounted = True
    found: Any = PendingStep.__new__(PendingStep)
    found.execution, found.call, found.position = _Run, call, position
    found.attempt, found.started, found.arguments = 3, 1.5, arguments
    return found  # type: ignore[no-any-return]


@pytest.fixture
def parent(tmp_path: Path) -> Parent:
    return Parent(
        Settings(),
        ["q"],
        Stamps(tmp_path / "stamps"),
        Places(tmp_path / "places"),
        Troubles(tmp_path / "troubles"),
        Mailbox(),
        lambda: "",
        lambda: 10.0,
    )


def test_a_step_is_seen_while_it_runs_and_not_before_or_after(tmp_path: Path) -> None:
    places = Places(tmp_path / "places")
    child = Places(tmp_path / "places").of(3)
    assert places.read(3) is None

    child.begin(pending())
    assert places.read(3) == Place(RUN, "2", "charge", 3, 1.5, '[["4711"],{}]')
    assert places.read(2) is None
    child.end()

    assert places.read(3) is None


def test_async_steps_are_seen_beside_the_main_threads(tmp_path: Path) -> None:
    places = Places(tmp_path / "places")
    child = places.of(1)

    child.fly(pending("1.0.1"), 2)
    child.begin(pending("5"))
    child.end()
    flying = places.read(1)
    child.fly(None, 0)

    assert flying is not None
    assert (flying.position, flying.flying) == ("1.0.1", 2)
    assert places.read(1) is None


def test_what_is_too_long_for_the_memory_is_cut_and_not_lost(tmp_path: Path) -> None:
    places = Places(tmp_path / "places")

    places.of(1).begin(pending("1." * 400 + "1", arguments="x" * 3_000))

    found = places.read(1)
    assert found is not None
    assert found.run_id == RUN
    assert found.arguments == "x" * 200 + "…"


def test_the_next_child_of_a_slot_says_nothing_of_the_last(tmp_path: Path) -> None:
    places = Places(tmp_path / "places")
    places.of(1).begin(pending())

    places.of(1)

    assert places.read(1) is None


def test_a_killed_process_leaves_the_step_it_was_in(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from veltrix.worker.places import Places\n"
        "from tests.worker.test_places import pending\n"
        "Places(Path(sys.argv[1])).of(1).begin(pending()); os.kill(os.getpid(), 9)"
    )
    places = Places(tmp_path / "places")

    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "places"], check=False)

    assert ended.returncode == -signal.SIGKILL
    found = places.read(1)
    assert found is not None
    assert found.step == "charge"


def told(error: Exception) -> ExceptionInfo:
    """An error as the pool tells it."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()


def lost(exitcode: int) -> ExceptionInfo:
    """As billiard says that a child has ended."""
    return told(WorkerLostError(f"Worker exited prematurely: {human_status(exitcode)} Job: 7."))


@pytest.mark.parametrize(("exitcode", "said"), [(-9, "9 (SIGKILL)"), (3, "3"), (0, "0")])
def test_a_death_says_the_exit_code_and_the_step(parent: Parent, exitcode: int, said: str) -> None:
    slot = parent.stamps.take_slot(os.getpid(), 1.0)
    parent.places.of(slot).begin(pending())

    silent = SilentChildren(parent.stamps, 16.0)
    death = death_of(lost(exitcode), os.getpid(), "w@h", parent, silent)

    assert death is not None
    message = f"its worker process exited {said} in step charge at 2"
    assert death.message == message
    assert death.crash_of([RUN, "another"]) == Crash(
        run_id=RUN,
        message=message,
        position="2",
        step="charge",
        began=1.5,
        took_ms=8_500,
        arguments='[["4711"],{}]',
        worker_id=f"w@h/{os.getpid()}",
    )
    assert death.crash_of(["another"]) is None, "of a list before"


def test_a_death_outside_of_steps_is_told_of_a_run_that_was_alone_only(parent: Parent) -> None:
    death = death_of(lost(-11), 999_999, "w@h", parent, SilentChildren(parent.stamps, 16.0))

    assert death == Death("exited 11 (SIGSEGV)", 10.0, worker_id="w@h/999999")
    assert death.crash_of(["a", "b"]) is None
    message = "its worker process exited 11 (SIGSEGV) outside of any step"
    assert death.crash_of(["a"]) == Crash(run_id="a", message=message, worker_id="w@h/999999")


def test_an_error_that_a_child_raised_is_no_death(parent: Parent) -> None:
    silent = SilentChildren(parent.stamps, 16.0)

    assert death_of(told(ValueError("Worker exited prematurely")), 1, "w@h", parent, silent) is None
