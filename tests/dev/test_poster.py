"""Posting goes on until everything is taken, also while the api dies and comes back."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

from tests.support.served import served
from tests.support.wait import until
from veltrix.dev.flights import event_of, flights_file, read_flights
from veltrix.dev.platform import Platform
from veltrix.dev.poster import NotTaken, Poster
from veltrix.operations.books.books import balance

PlatformOf = Callable[..., Platform]


def flights(count: int) -> Iterator[bytes]:
    return (event_of(flight) for flight in read_flights(flights_file(), count))


def test_an_api_killed_midway_costs_no_event_and_doubles_none(
    platform: PlatformOf, engine: Engine
) -> None:
    running = platform(relays=0, workers=0)
    events = flights(1_000)

    with Poster(running.api_url, events, batch_events=50, connections=2, hold_at=500) as poster:
        until(lambda: poster.is_held, what="half of it to be posted")
        poster.permit()
        running.kill("api-1")
        poster.release()
        running.start("api-1", "api")
        until(lambda: poster.is_done, deadline_s=30, what="the rest to be posted")

    assert poster.taken == 1_000
    assert balance(engine).events.accepted == 1_000


def test_beyond_the_hold_each_batch_needs_a_permit(engine: Engine, database_url: str) -> None:
    with (
        served(engine, database_url) as api,
        Poster(api.url, flights(100), batch_events=10, connections=1, hold_at=50) as poster,
    ):
        until(lambda: poster.is_held, what="half of it to be read")
        poster.permit()
        until(lambda: poster.taken == 60, what="one batch more")
        assert not poster.is_done
        poster.release()
        until(lambda: poster.is_done, what="the rest to be posted")

    assert balance(engine).events.accepted == 100


def test_what_will_never_be_taken_ends_the_posting_with_the_answer(
    engine: Engine, database_url: str
) -> None:
    events = iter([*flights(3), b'{"specversion": "1.0", "id": "no source"}'])

    with (
        served(engine, database_url) as api,
        Poster(api.url, events, batch_events=10, connections=1) as poster,
        pytest.raises(NotTaken, match=r"400: .*source is missing"),
    ):
        until(lambda: poster.is_done, what="the posting to end")
