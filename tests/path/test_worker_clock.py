"""Workers whose clocks are a minute off: due, leases and back-off are the database's time only."""

from collections import Counter
from pathlib import Path

from tests.path.seen import Start


def test_a_worker_clock_a_minute_off_in_either_direction_changes_nothing(scene: Start) -> None:
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    seen = scene(hold_s=2, workers=0)
    for name, offset in (("worker-1", "+60s"), ("worker-2", "-60s")):
        wrong = {"LD_PRELOAD": str(library), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
        seen.platform.start(name, "worker", env=wrong)
    seen.platform.wait_ready()
    seen.wait_registered()

    long_ = seen.add([["pause_async", 2.5]], 2)
    run_ids = seen.add([["note"], ["book"], ["pause", 0.05], ["note"]], 60)

    assert seen.wait_settled(run_ids) == Counter(succeeded=60)
    assert seen.wait_settled(long_) == Counter(succeeded=2)
    assert all(seen.began_once(position, run_ids) for position in (1, 3, 4))
    assert seen.began_once(1, long_), "a step longer than its first lease runs once"
    assert seen.bookings(run_ids) == Counter({1: 60})
    assert len({x.pid for x in seen.lines()}) == 4, "both workers worked"
    assert seen.ask("select max(attempt), bool_or(alone), max(settled_at) < now() from runs") == [
        (1, False, True)
    ]
    assert not seen.failed_attempts()
    assert seen.unaccounted() == 0
