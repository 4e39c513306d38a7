"""Idle hands get the work: nothing waits behind a worker that is busy with something long."""

import time
import urllib.request
from collections import Counter

import pytest

from tests.path.seen import Scene, Start
from tests.support.wait import until

LONG_S = 15.0
SOON_S = 5.0  # calm it is below 1; the processors are shared with other tests


def given_back(seen: Scene, name: str) -> float:
    """How many messages this worker returned to RabbitMQ."""
    url = f"{seen.platform.processes[name].url}/metrics"
    with urllib.request.urlopen(url, timeout=5) as told:  # noqa: S310 - on loopback
        lines = told.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("veltrix_messages_given_back_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counted)


def waited(seen: Scene, run_ids: list[str], since: float) -> float:
    """Seconds from `since` until the last of these runs began."""
    return max(line.at for line in seen.at(1, run_ids)) - since


@pytest.mark.parametrize("deed", ["pause", "pause_async"])
def test_forty_short_runs_start_at_once_beside_a_busy_worker(scene: Start, deed: str) -> None:
    seen = scene(workers=2, children=1)
    (long,) = seen.add([[deed, LONG_S]])
    until(lambda: seen.at(1, [long]), what="the long step to begin")

    began = time.monotonic()
    run_ids = [seen.add([["note"]], 1)[0] for _ in range(40)]

    assert seen.wait_settled(run_ids, 10.0) == Counter(succeeded=40)
    assert waited(seen, run_ids, began) < SOON_S
    assert seen.states([long]) == Counter(running=1)


def test_what_a_worker_had_taken_before_it_was_busy_goes_to_the_other(scene: Start) -> None:
    seen = scene(workers=1, children=1)
    seen.wait_settled(seen.add([["note"]], 20))  # measured: their lists are full ones from now on
    began = time.monotonic()
    (long,) = seen.add([["pause", LONG_S]])
    run_ids = [seen.add([["note"]], 1)[0] for _ in range(20)]
    until(lambda: seen.at(1, [long]), what="the long step to begin")
    seen.platform.start("worker-2", "worker", {})

    assert seen.wait_settled(run_ids, 15.0) == Counter(succeeded=20)
    assert {hand_overs for (hand_overs,) in seen.rows(run_ids, "hand_overs")} == {0}
    assert time.monotonic() - began < LONG_S


def test_nothing_goes_round_while_all_workers_are_busy(scene: Start) -> None:
    seen = scene(workers=2, children=1)
    seen.wait_settled(seen.add([["note"]], 20))
    long = seen.add([["pause", 6.0]], 1) + seen.add([["pause", 6.0]], 1)
    until(lambda: len(seen.at(1, long)) == 2, what="both long steps to begin")
    run_ids = [seen.add([["note"]], 1)[0] for _ in range(40)]

    assert seen.wait_settled(run_ids + long, 20.0) == Counter(succeeded=42)
    turned = given_back(seen, "worker-1") + given_back(seen, "worker-2")
    assert turned <= 2 * 40, "each of them once by each of the two"
    assert seen.began_once(1, run_ids + long)
    assert not seen.ask("select 1 from dead_letters")


def test_long_runs_only_are_given_back_hardly_ever(scene: Start) -> None:
    seen = scene(workers=2, children=1)
    run_ids = [seen.add([["pause", 0.4]], 1)[0] for _ in range(40)]

    assert seen.wait_settled(run_ids, 60.0) == Counter(succeeded=40)
    turned = given_back(seen, "worker-1") + given_back(seen, "worker-2")
    assert turned < 3 * 40
    assert seen.began_once(1, run_ids)
    assert not seen.ask("select 1 from dead_letters")


def test_a_busy_workers_other_queues_are_served_by_who_is_idle(scene: Start) -> None:
    seen = scene(workers=2, children=1)
    (long,) = seen.add([["pause", LONG_S]])
    until(lambda: seen.at(1, [long]), what="the long step to begin")

    began = time.monotonic()
    run_ids = [seen.add([["note"]], 1, workflow="flood", queue="flood")[0] for _ in range(20)]

    assert seen.wait_settled(run_ids, 10.0) == Counter(succeeded=20)
    assert waited(seen, run_ids, began) < SOON_S
