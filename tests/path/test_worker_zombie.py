"""A child that sleeps through its lease and wakes up writes nothing: the token is the fence."""

from collections import Counter

from tests.path.seen import Start
from tests.support.processes import freeze, is_alive, thaw
from tests.support.wait import until
from veltrix.store.journal_of import JOURNAL_OF

JOURNAL = f"""
select j.run_id::text, position, name, output::text, j.recorded_at from {JOURNAL_OF} j
where run_id = any(%s::uuid[]) order by 1, 2
"""


def test_a_child_that_lost_its_lease_changes_nothing(scene: Start) -> None:
    seen = scene(hold_s=2)
    run_ids = seen.add([["note"], ["pause", 0.5], ["book"], ["note"]])
    first = until(lambda: seen.at(2, run_ids), what="the pause")[0]

    freeze(first.pid)
    assert seen.wait_settled(run_ids) == Counter(succeeded=1)
    journal = seen.ask(JOURNAL, run_ids)
    row = seen.rows(run_ids, "state, settled_at, outcome::text, worker_id, attempt")
    assert is_alive(first.pid), "or the test shows nothing"
    thaw(first.pid)
    until(lambda: seen.log_lines("lease.lost"), what="the zombie to see that its lease is gone")

    assert seen.ask(JOURNAL, run_ids) == journal
    assert len(journal) == 4
    assert seen.rows(run_ids, "state, settled_at, outcome::text, worker_id, attempt") == row
    assert len(seen.at(2, run_ids)) == 2, "the step in hand is repeated: at least once"
    assert seen.bookings(run_ids) == Counter({1: 1})
    assert len(seen.at(4, run_ids)) == 1, "the zombie does not begin another step"
    assert not seen.failed_attempts()
    assert seen.unaccounted() == 0

    later = seen.add([["note"], ["pause", 0.2]], 12)

    assert seen.wait_settled(later) == Counter(succeeded=12)
    assert {x.pid for x in seen.at(2, later)} >= {first.pid}, "it goes on working"
