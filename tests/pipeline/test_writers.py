"""Two writers: a small event is answered while a large one is not yet committed."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import pytest
from sqlalchemy import Engine, make_url, text

from tests.support.accepting import submission
from tests.support.wait import until
from veltrix.domain.ids import EventIds
from veltrix.pipeline.accept.event_list import Answer, Submission, bytes_of
from veltrix.pipeline.accept.receipts import AcceptUnavailable, Receipt
from veltrix.pipeline.accept.writers import SMALL_BYTES_MAX, Writers
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine, transaction

MIB = 1024 * 1024
LARGE = '"' + "x" * SMALL_BYTES_MAX + '"'
HELD = """
insert into identities (source, sender_id, digest, event_id)
values ('/shop', 'held', '\\x00', gen_random_uuid())
"""
BLOCKED = """
select count(*) from pg_stat_activity
where application_name = 'accept large' and wait_event_type = 'Lock'
"""


@contextmanager
def writers_of(
    database_url: str, *, large_url: str | None = None, **changes: int
) -> Iterator[Writers]:
    settings = Settings(
        database_url=database_url,
        broker_url="amqp://127.0.0.1:1/",
        **changes,
    )
    engines = (
        make_engine(database_url, application="accept"),
        make_engine(large_url or database_url, application="accept large"),
    )
    writers = Writers(
        engines,
        settings,
        EventIds(Random(0).getrandbits),
        lambda: time.time_ns() // 1_000_000,
        lambda _queue, _runs: 0,
        lambda _runs: None,
    )
    writers.start()
    try:
        yield writers
    finally:
        writers.stop()
        for engine in engines:
            engine.dispose()


def accept(writers: Writers, *submissions: Submission) -> list[Answer]:
    async def asked() -> list[Answer]:
        return await writers.submit(submissions)

    return asyncio.run(asked())


@contextmanager
def held_up(writers: Writers, engine: Engine, data: str = LARGE) -> Iterator[Future[list[Answer]]]:
    """A large event whose identity a transaction has that takes it back at the end of the block."""
    with ThreadPoolExecutor(1) as beside, engine.connect() as tx:
        tx.execute(text(HELD))
        answer = beside.submit(accept, writers, submission("held", data))
        until(lambda: _count(engine, BLOCKED), what="the large event to wait")
        yield answer
        tx.rollback()
        answer.result(30)


def _count(engine: Engine, sql: str) -> int:
    with transaction(engine) as tx:
        return int(tx.execute(text(sql)).scalar_one())


def test_a_small_event_waits_for_no_large_one(database_url: str, engine: Engine) -> None:
    with writers_of(database_url) as writers:
        with held_up(writers, engine) as large:
            (small,) = accept(writers, submission("small"))

            assert isinstance(small, Receipt)
            assert not large.done()
            assert writers._waiting(0) == 1  # what the gauge says
        assert isinstance(large.result()[0], Receipt)


def test_large_events_that_wait_leave_room_for_small_ones(
    database_url: str, engine: Engine
) -> None:
    """The held one fills its half; the small one would not fit into it."""
    half = MIB // 2
    with writers_of(
        database_url, accept_waiting_bytes_max=MIB, event_bytes_max=half, batch_bytes_max=half
    ) as writers:
        with held_up(writers, engine, '"' + "x" * (half - 2_000) + '"'):
            with pytest.raises(AcceptUnavailable):
                accept(writers, submission("large", LARGE))

            small = submission("small", '"' + "x" * 20_000 + '"')
            assert isinstance(accept(writers, small)[0], Receipt)
        assert isinstance(accept(writers, submission("large", LARGE))[0], Receipt)


def test_a_small_event_that_is_being_written_as_a_large_one_holds_up_nobody(
    database_url: str, engine: Engine
) -> None:
    """It waits for the commit of the other; in a list all the others would wait with it."""

    async def both(writers: Writers) -> None:
        same = writers.submit([submission("held")])
        other = writers.submit([submission("other")])
        assert isinstance((await asyncio.wait_for(other, 10))[0], Receipt)
        assert not same.done()
        same.cancel()

    with writers_of(database_url) as writers, held_up(writers, engine):
        asyncio.run(both(writers))


def test_what_is_small_is_not_large_together(database_url: str, engine: Engine) -> None:
    sent = [submission(str(n), '"' + "x" * 100_000 + '"') for n in range(30)]

    async def all_at_once(writers: Writers) -> list[list[Answer]]:
        return await asyncio.gather(*(writers.submit([one]) for one in sent))

    with writers_of(database_url) as writers:
        asyncio.run(all_at_once(writers))

    commits = "select count(distinct xmin::text) from events"
    assert _count(engine, commits) >= 3


def test_characters_of_four_bytes_are_counted_as_such() -> None:
    text_ = "\U0001f600" * (SMALL_BYTES_MAX // 3)

    assert bytes_of(submission("1", f'"{text_}"')) > SMALL_BYTES_MAX


def test_a_database_that_is_away_for_the_large_ones_alone_is_told(
    database_url: str, engine: Engine
) -> None:
    away = make_url(database_url).set(database="not_there").render_as_string(hide_password=False)
    with writers_of(database_url, large_url=away) as writers:
        until(lambda: writers.is_writing, what="a connection")
        assert writers.is_writing_large  # as far as it knows
        with pytest.raises(AcceptUnavailable):
            accept(writers, submission("large", LARGE))

        assert not writers.is_writing_large
        assert writers.is_writing
        assert isinstance(accept(writers, submission("small"))[0], Receipt)


def test_stopped_writers_answer_all_that_waits(database_url: str, engine: Engine) -> None:
    async def submit_and_stop(writers: Writers) -> list[list[Answer]]:
        waiting = [
            writers.submit([submission(str(n), LARGE if n % 2 else "{}")]) for n in range(10)
        ]
        await asyncio.to_thread(writers.stop)
        return await asyncio.gather(*waiting)

    with writers_of(database_url) as writers:
        until(lambda: writers.is_writing, what="a connection")
        answers = asyncio.run(submit_and_stop(writers))

        assert all(isinstance(one, Receipt) for (one,) in answers)
        assert not writers.is_writing
        for data in ("{}", LARGE):
            with pytest.raises(AcceptUnavailable):
                accept(writers, submission("late", data))
    assert _count(engine, "select count(*) from events") == 10


def test_one_identity_at_both_writers_at_once_is_one_event(
    database_url: str, engine: Engine
) -> None:
    async def both(writers: Writers) -> list[list[Answer]]:
        pairs = [(submission(str(n)), submission(str(n), LARGE)) for n in range(20)]
        return await asyncio.gather(*(writers.submit([one]) for pair in pairs for one in pair))

    with writers_of(database_url) as writers:
        accept(writers, submission("first"))
        accept(writers, submission("first large", LARGE))  # both are connected
        answers = [one for (one,) in asyncio.run(both(writers))]

    assert sum(isinstance(one, Receipt) for one in answers) == 20  # the others are conflicts
    assert _count(engine, "select count(*) from events") == 22
