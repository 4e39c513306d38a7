"""Worker, SIGTERM: it finishes or hands back within its grace time, and nothing is lost."""

import time
from collections import Counter

import psutil
import pytest

from tests.path.seen import Start
from tests.support.wait import until
from veltrix.prove.deployment.tcp_proxy import TcpProxy


def test_a_terminated_worker_hands_back_between_two_steps(scene: Start) -> None:
    seen = scene(env={"VELTRIX_GRACE_S": "20"})
    run_ids = seen.add([["note"], ["pause", 0.05], ["book"], ["note"]], 60)

    until(lambda: len(seen.at(2, run_ids)) >= 10, what="the worker to be in the middle")
    seen.platform.terminate("worker-1")
    asked = time.monotonic()

    assert seen.platform.wait_ended("worker-1") == 0
    assert time.monotonic() - asked < 10.0, "it waits for no more than the steps in hand"
    left = seen.states(run_ids)
    assert left["queued"] > 0
    assert left.keys() <= {"queued", "succeeded"}
    assert not seen.failed_attempts()

    seen.platform.start("worker-1", "worker")

    assert seen.wait_settled(run_ids, 20) == Counter(succeeded=60)
    assert all(seen.began_once(position, run_ids) for position in (1, 2, 4))
    assert seen.bookings(run_ids) == Counter({1: 60})
    assert seen.rows(run_ids, "max(crashes) over (), bool_or(alone) over ()")[0] == (0, False)
    assert seen.unaccounted() == 0


@pytest.mark.slow
def test_a_child_blocked_in_a_step_is_ended_before_the_grace_is_over(scene: Start) -> None:
    seen = scene(env={"VELTRIX_GRACE_S": "6"})
    blocked = seen.add([["note"], ["pause", 30.0]])
    until(lambda: seen.at(2, blocked), what="the long step")

    seen.platform.terminate("worker-1")
    asked = time.monotonic()

    assert seen.platform.wait_ended("worker-1") == 0
    assert time.monotonic() - asked < 6.0
    assert seen.rows(blocked, "state, crashes, alone") == [("queued", 0, False)]
    assert not seen.failed_attempts(), "the shutdown was not its fault"
    assert len(seen.log_lines("child.ended")) == 1


def is_gone(pid: int) -> bool:
    """It runs no more."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
def test_a_child_in_c_code_that_keeps_the_interpreter_is_ended_with_its_worker(
    scene: Start,
) -> None:
    seen = scene(children=1, env={"VELTRIX_GRACE_S": "6", "VELTRIX_HOLD_S": "30"})
    stuck = seen.add([["note"], ["hold"]])
    (line,) = until(lambda: seen.at(2, stuck), what="the step that holds the interpreter")

    seen.platform.terminate("worker-1")
    asked = time.monotonic()

    assert seen.platform.wait_ended("worker-1") == 0
    assert time.monotonic() - asked < 6.5
    until(lambda: is_gone(line.pid), what="its child to be gone")
    assert seen.log_lines("process.ended", "worker-1")
    assert seen.log_lines("most recent call first", "worker-1")


@pytest.mark.slow
def test_a_worker_that_never_reached_rabbitmq_leaves_at_the_first_signal(scene: Start) -> None:
    seen = scene(workers=0, relays=0)
    line = TcpProxy(seen.platform.broker_url)
    line.fall_silent()
    try:
        urls = {"VELTRIX_BROKER_URL": line.url, "VELTRIX_GRACE_S": "6"}
        worker = seen.platform.start("worker-1", "worker", urls)
        until(lambda: len(psutil.Process(worker.pid).children()) >= 2, 20, "its children")
        seen.platform.terminate("worker-1")
        asked = time.monotonic()

        assert seen.platform.wait_ended("worker-1") == 0
        assert time.monotonic() - asked < 6.5
    finally:
        line.close()
