"""Ids sort by when they were made, and one wrong reading of a clock is not kept."""

from datetime import UTC, datetime, timedelta
from random import Random

from veltrix.domain.ids import BACK_MS_MAX, EventIds, first_id_at, minute_of, unix_ms_of

NOW = 1_790_000_000_000


def test_ids_do_not_go_back_where_two_looks_at_a_clock_differ() -> None:
    ids = EventIds(Random(1).getrandbits)
    made = [ids.make(NOW + change, 1)[0] for change in (0, 5, 3, 5 - BACK_MS_MAX, 6)]

    assert [unix_ms_of(id_) - NOW for id_ in made] == [0, 5, 5, 5, 6]


def test_a_clock_that_was_wrong_for_a_moment_is_right_again() -> None:
    """One reading a day ahead dated every event of an api a day ahead, until it was restarted."""
    ids = EventIds(Random(1).getrandbits)
    ids.make(NOW + 86_400_000, 1)
    (id_,) = ids.make(NOW + 1, 1)

    assert minute_of(id_) == NOW // 60_000


def test_a_bound_by_time_leaves_out_nothing_of_its_millisecond() -> None:
    """Rounded up, it left out what was accepted after it in the same millisecond."""
    at = datetime(2026, 1, 31, 12, 0, 0, 123_000, tzinfo=UTC)
    ms = int(at.timestamp()) * 1000 + 123
    (id_,) = EventIds(Random(1).getrandbits).make(ms, 1)

    assert first_id_at(at) == first_id_at(at + timedelta(microseconds=999)) <= id_
    assert unix_ms_of(first_id_at(at)) == ms
    assert first_id_at(at + timedelta(milliseconds=1)) > id_
    assert unix_ms_of(first_id_at(datetime(1969, 1, 1, tzinfo=UTC))) == 0
