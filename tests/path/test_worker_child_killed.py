"""Worker child, in a step: journal up to the last commit; released, finished steps skipped."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.path.conftest import shared
from tests.path.seen import Line, Scene
from tests.support.processes import child_pids, sigkill
from tests.support.services import Services
from tests.support.wait import until

# The third step is longer than it takes to see that it began, and to kill: else its run is over.
DEEDS: list[list[Any]] = [["note"], ["book"], ["pause", 0.25], ["note"]]


@pytest.fixture(scope="module")
def seen(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One platform for all of these: what dies is a child, and another takes its place."""
    with shared(services, tmp_path_factory.mktemp("children")) as scene:
        yield scene


def kill_one(seen: Scene) -> None:
    """Eight runs; their child dies in the third step of one of them."""
    noticed = len(seen.log_lines("job.failed"))
    run_ids = seen.add(DEEDS, 8)
    victim: Line = until(lambda: seen.at(3, run_ids), what="the third step of a run")[-1]
    killed = time.monotonic()
    sigkill(victim.pid)

    until(lambda: len(seen.log_lines("job.failed")) > noticed, 0.2, "the death to be noticed")
    again: list[Line] = until(
        lambda: [x for x in seen.at(3, [victim.run_id]) if x.pid != victim.pid],
        what="its run to run again",
    )
    assert again[0].at - killed < 3.0  # under a second on a machine that is not busy
    assert seen.wait_settled(run_ids) == Counter(succeeded=8)
    assert seen.began_once(1, run_ids), "a finished step never runs again"
    assert seen.bookings(run_ids) == Counter({1: 8}), "a transactional step: exactly one effect"
    assert not seen.failed_attempts(run_ids), "the crash is the child's, not the step's"
    ((_, type_, message),) = seen.crashes(run_ids)
    assert type_ == "WorkerCrashed"
    assert "exited 9 (SIGKILL) in step" in message


def test_runs_of_a_killed_child_go_on_within_a_second_and_repeat_nothing(seen: Scene) -> None:
    for _ in range(3):
        kill_one(seen)

    assert seen.unaccounted() == 0
    assert len(child_pids(seen.platform.processes["worker-1"].pid)) == 3, "two and the sidecar"


def test_runs_of_a_killed_child_do_not_queue_behind_what_waits(seen: Scene) -> None:
    waiting = seen.add([["pause", 0.2]], 40)  # 4 s for two children
    until(lambda: seen.at(1, waiting), what="a step")
    victim = seen.at(1, waiting)[-1]
    sigkill(victim.pid)
    killed = time.monotonic()

    again = until(
        lambda: [x for x in seen.at(1, [victim.run_id]) if x.pid != victim.pid], 5, "its run again"
    )

    assert again[0].at - killed < 2.0
    assert seen.wait_settled(waiting, 30) == Counter(succeeded=40)
    assert seen.unaccounted() == 0


@pytest.mark.slow
def test_twenty_kills_in_a_row_are_each_noticed_within_a_fifth_of_a_second(seen: Scene) -> None:
    for _ in range(20):
        kill_one(seen)


def test_a_run_that_kills_three_children_alone_fails_and_its_neighbours_succeed(
    seen: Scene,
) -> None:
    neighbours = seen.add([["note"]], 3)
    poison = seen.add([["note"], ["kill"], ["note"]])
    neighbours += seen.add([["note"]], 4)

    assert seen.wait_settled(neighbours) == Counter(succeeded=7)
    assert seen.wait_settled(poison) == Counter(failed=1)
    assert seen.rows(poison, "reason, crashes, alone") == [("poison", 3, True)]
    assert 3 <= len(seen.at(2, poison)) <= 4, "the first death may be one in company"
    assert seen.began_once(1, poison)
    assert not seen.at(3, poison)
    assert seen.rows(neighbours, "crashes") == [(0,)] * 7
    assert not seen.failed_attempts(neighbours + poison)
    assert not seen.crashes(neighbours)
    crashes = seen.crashes(poison)
    assert 3 <= len(crashes) <= 4
    kill, says = crashes[-1][0], "its worker process exited 9 (SIGKILL) in step "
    assert set(crashes) == {(kill, "WorkerCrashed", f"{says}{kill} at 2")}
    assert seen.rows(poison, "failed_step, outcome ->> 'type', outcome ->> 'message'") == [
        (kill, "WorkerCrashed", f"{says}{kill} at 2")
    ]
    assert seen.unaccounted() == 0
