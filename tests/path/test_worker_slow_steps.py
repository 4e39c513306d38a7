"""Long, slow and endless steps: none is repeated, and none holds or fails its neighbours."""

from collections import Counter
from typing import Any

import pytest

from tests.path.seen import Scene
from tests.support.wait import until


def test_a_step_of_three_leases_runs_once(steady: Scene) -> None:
    seen = steady

    run_ids = seen.add([["pause", 3.3]]) + seen.add([["pause_async", 3.3]])

    assert seen.wait_settled(run_ids) == Counter(succeeded=2)
    assert seen.began_once(1, run_ids)
    assert seen.rows(run_ids, "attempt, crashes, alone") == [(1, 0, False)] * 2


def test_a_slow_step_hands_the_runs_that_have_not_begun_to_the_other_child(steady: Scene) -> None:
    seen = steady
    where: dict[str, Any] = {"workflow": "beside_slow", "queue": "beside"}

    slow = seen.add([["pause", 2.0]], **where)
    run_ids = seen.add([["note"]], 7, **where)

    assert seen.wait_settled(run_ids) == Counter(succeeded=7)
    began = until(lambda: seen.at(1, slow), what="the slow step")[0]
    late_s = max(x.at - began.at for x in seen.at(1, run_ids))
    assert late_s < 1.5
    assert seen.states(slow) == Counter(running=1), "it is still at its step"
    assert seen.wait_settled(slow) == Counter(succeeded=1)
    assert seen.began_once(1, slow + run_ids)


@pytest.mark.parametrize("deed", ["spin", "spin_async"])
def test_an_endless_step_ends_as_timeout_and_its_neighbours_succeed(
    steady: Scene, deed: str
) -> None:
    seen = steady
    where: dict[str, Any] = {"workflow": f"beside_{deed}", "queue": "beside"}
    ended = len(seen.log_lines("child.ended"))

    neighbours = seen.add([["note"], ["book"]], 3, **where)
    endless = seen.add([["note"], [deed], ["note"]], **where)
    neighbours += seen.add([["note"], ["pause_async", 0.1]], 4, **where)

    assert seen.wait_settled(endless) == Counter(failed=1)
    assert seen.wait_settled(neighbours) == Counter(succeeded=7)
    assert seen.rows(endless, "reason, failed_step, crashes") == [("timeout", deed, 0)]
    assert len(seen.at(2, endless)) == 1
    assert not seen.at(3, endless)
    assert seen.began_once(1, neighbours + endless)
    assert seen.failed_attempts(endless) == [(deed, "StepTimeout")]
    assert not seen.failed_attempts(neighbours)
    is_child_ended = len(seen.log_lines("child.ended")) - ended
    assert is_child_ended == (deed == "spin_async"), "a sync one is interrupted in its child"
    assert seen.unaccounted() == 0
