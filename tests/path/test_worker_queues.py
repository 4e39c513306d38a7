"""A flood on one queue does not slow another."""

from collections import Counter

from tests.path.seen import Scene
from tests.support.wait import until


def test_a_flooded_queue_does_not_delay_another(steady: Scene) -> None:
    seen = steady
    flood = seen.add([["pause", 0.02]], 400, workflow="flood", queue="flood")
    until(lambda: len(seen.at(1, flood)) > 50, what="the flood to be at work on both children")

    for _ in range(10):
        run_ids = seen.add([["note"]])
        assert seen.wait_settled(run_ids, 0.7) == Counter(succeeded=1)

    assert seen.states(flood)["queued"] > 50, "the flood was there all the time"
    assert seen.wait_settled(flood) == Counter(succeeded=400)
