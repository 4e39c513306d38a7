"""Steps may start programs and processes, as any other code; a child that has run enough goes."""

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.path.seen import Scene, Start
from tests.support.wait import until


@pytest.fixture
def usual(scene: Start) -> Scene:
    """One child, so that every run meets what another left."""
    return scene(workers=1, children=1, workflows="tests.path.usual_flows")


def outcome(seen: Scene, deeds: list[list[Any]]) -> Any:
    (run_id,) = seen.add(deeds, workflow="usual")
    assert seen.wait_settled([run_id], 30.0) == Counter(succeeded=1), seen.rows([run_id], "reason")
    ((output,),) = seen.rows([run_id], "outcome")
    return json.loads(output)


def test_what_steps_start_ends_when_it_is_told_to(usual: Scene) -> None:
    assert outcome(
        usual,
        [
            ["end_a_program", signal.SIGTERM],
            ["end_a_program", signal.SIGINT],
            ["ignored_by_programs"],
        ],
    ) == [-signal.SIGTERM, -signal.SIGINT, []]


def test_multiprocessing_works_in_steps(usual: Scene) -> None:
    doubled = [2, 4, 6]
    assert outcome(
        usual,
        [
            ["pool", "fork"],
            ["pool", "spawn"],
            ["executor"],
            ["end_a_process", "fork"],
            ["end_a_process", "spawn"],
        ],
    ) == [doubled, doubled, doubled, -signal.SIGTERM, -signal.SIGTERM]


def test_a_copy_ends_where_it_would_return_from_the_authors_code(usual: Scene) -> None:
    for kind in ("fork", "fork_async", "fork_in_transaction"):
        deeds = [[kind, "return"], [kind, "raise"], [kind, "exit"]]
        assert outcome(usual, deeds) == [0, 1, 3], kind
    (run_id,) = usual.add([], workflow="forks")
    assert usual.wait_settled([run_id]) == Counter(succeeded=1)
    assert usual.rows([run_id], "outcome::text, crashes") == [("0", 0)]
    assert outcome(usual, [["fork", "return"]]) == [0], "the child goes on"


def test_children_go_after_so_many_runs_without_a_crash_and_leave_nothing(scene: Start) -> None:
    seen = scene(
        workers=1,
        children=2,
        workflows="tests.path.usual_flows",
        env={"VELTRIX_CHILD_RUNS_MAX": "1", "VELTRIX_LIST_RUNS_MAX": "2"},
    )
    ((pid,),) = [outcome(seen, [["leave_a_process"]])]
    until(lambda: not Path(f"/proc/{pid}").exists(), what="what it left behind to end")
    run_ids = [seen.add([], workflow="usual")[0] for _ in range(40)]

    assert seen.wait_settled(run_ids, 60.0) == Counter(succeeded=40)
    assert set(seen.rows(run_ids, "attempt, crashes, alone, hand_overs")) == {(1, 0, False, 0)}
    assert len(seen.log_lines("child.recycled")) > 10
    assert not seen.log_lines("job.failed")
