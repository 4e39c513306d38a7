"""Clients of steps live as long as the child: made once, shared, and closed when it ends."""

import json
from collections import Counter
from pathlib import Path

from tests.path.seen import Start


def test_steps_share_what_is_made_once_and_closed_at_the_end(scene: Start, tmp_path: Path) -> None:
    seen = scene(workers=1, children=1, workflows="tests.path.solo_flows")
    first = seen.add([], workflow="asking")
    assert seen.wait_settled(first) == Counter(succeeded=1)
    more = seen.add([], 5, workflow="asking")
    assert seen.wait_settled(more) == Counter(succeeded=5)

    answers = [json.loads(outcome) for (outcome,) in seen.rows([*first, *more], "outcome::text")]
    assert sorted(answers) == [[number, number] for number in range(1, 7)]
    assert seen.failed_attempts(first) == [("ask", "ConnectionError")], "made anew at the next try"

    (own,) = seen.add([], workflow="asks_itself")
    assert seen.wait_settled([own]) == Counter(failed=1)
    assert "ask for it in a step" in seen.rows([own], "outcome::text")[0][0]
    assert any("no such warehouse" in line for line in seen.log_lines("start_hook.failed"))

    seen.platform.terminate("worker-1")
    assert seen.platform.wait_ended("worker-1") == 0
    noted = [line.split() for line in (tmp_path / "effects").read_text().splitlines()]
    words = [word.rpartition("_loop_")[0] or word for word, _ in noted]
    assert Counter(words) == Counter(
        ["warmed", "warmed_on", "opened", "opened_on", "closed", "closed_on_loop"]
    )
    assert words[:2] == ["warmed", "warmed_on"]
    assert len({pid for _, pid in noted}) == 1, "all in the one child"
    loops = {word.rpartition("_")[2] for word, _ in noted if "_on_loop_" in word}
    assert len(loops) == 1, "one loop for hooks, resources and steps"


def test_what_cannot_be_closed_keeps_no_child(scene: Start) -> None:
    env = {"VELTRIX_CHILD_RUNS_MAX": "1", "VELTRIX_LIST_RUNS_MAX": "1"}
    seen = scene(workers=1, children=1, workflows="tests.path.solo_flows", env=env)
    run_ids = seen.add([], 2, workflow="sticking")

    assert seen.wait_settled(run_ids, 40.0) == Counter(succeeded=2)
    assert set(seen.rows(run_ids, "crashes, attempt")) == {(0, 1)}
    assert seen.log_lines("process.ended"), "where it hung is said"
