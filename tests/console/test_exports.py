"""A file of a list takes a bounded time, and few are made at once."""

import threading

import pytest

from veltrix.console.exports import EXPORTS_MAX, exported
from veltrix.operations.runs.read_events import EventPage
from veltrix.web.problems import Problem


def endless(_cursor: str | None, _limit: int) -> EventPage:
    """As a search for what is nowhere, page after page."""
    return EventPage([], "further")


def test_a_search_for_what_is_rare_says_where_it_goes_on() -> None:
    answer = exported("events", "json", endless, None, look_s_max=0.01)

    assert answer.headers["x-next-cursor"] == "further"
    assert bytes(answer.body) == b'{"items":[],"next":"further"}'


def test_who_asks_while_others_wait_for_theirs_is_told_so_and_holds_nothing_up() -> None:
    going, go_on = threading.Barrier(EXPORTS_MAX + 1), threading.Event()
    status: list[int] = []

    def slow(_cursor: str | None, _limit: int) -> EventPage:
        going.wait(10)
        assert go_on.wait(10)
        return EventPage([], None)

    def ask() -> None:
        status.append(exported("events", "csv", slow, None).status_code)

    others = [threading.Thread(target=ask) for _ in range(EXPORTS_MAX)]
    for other in others:
        other.start()
    going.wait(10)
    with pytest.raises(Problem, match="again in a few seconds") as refused:
        exported("events", "csv", endless, None)
    go_on.set()
    for other in others:
        other.join(10)

    assert refused.value.status == 503
    assert "Retry-After" in refused.value.headers
    assert status == [200] * EXPORTS_MAX
    assert exported("events", "csv", endless, None, look_s_max=0.0).status_code == 200
