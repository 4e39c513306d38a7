"""Worker parent: its children end with it, its leases expire, its runs are rescued within 10 s."""

import time
from collections import Counter

from tests.path.seen import Start
from tests.support.processes import child_pids, is_alive
from tests.support.wait import until


def test_runs_of_a_killed_worker_are_running_again_within_ten_seconds(scene: Start) -> None:
    seen = scene(workers=2)
    parent = seen.platform.processes["worker-1"].pid
    children = set(child_pids(parent))
    run_ids = seen.add([["note"], ["book"], ["pause", 0.1], ["note"]], 80)

    until(lambda: {x.pid for x in seen.at(3, run_ids)} & children, what="a run in hand of worker-1")
    seen.platform.kill("worker-1")
    killed = time.monotonic()
    in_hand = [
        run_id
        for run_id, worker in seen.rows(
            run_ids, "id::text, case state when 'running' then worker_id end"
        )
        if worker is not None and worker.startswith("worker-1@")
    ]

    assert in_hand
    until(lambda: not any(map(is_alive, children)), 2.0, "the children to end with their parent")
    until(
        lambda: {x.run_id for x in seen.lines() if x.at > killed} >= set(in_hand),
        max(0.0, killed + 10.0 - time.monotonic()),
        "every run it had to be running again",
    )
    assert seen.wait_settled(run_ids, 20) == Counter(succeeded=80)
    assert seen.bookings(run_ids) == Counter({1: 80})
    assert not seen.failed_attempts()
    assert seen.unaccounted() == 0
