"""Two writers: a small event is answered while a large one is not yet committed."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import submission
from tests.support.wait import until
from veltrix.domain.ids import EventIds
from veltrix.domain.receipts import AcceptUnavailable, Receipt
from veltrix.pipeline.accept_list import Answer, Submission
from veltrix.pipeline.writers import SMALL_BYTES_MAX, Writers
from veltrix.settings import Settings
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
def writers_of(database_url: str, **changes: int) -> Iterator[Writers]:
    settings = Settings(
        database_url=database_url,
        broker_url="amqp://127.0.0.1:1/",
        **changes,
    )
    engines = (
        make_engine(database_url, application="accept"),
        make_engine(database_url, application="accept large"),
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
def held_up(writers: Writers, engine: Engine) -> Iterator[Future[list[Answer]]]:
    """A large event whose identity a transaction has that takes it back at the end of the block."""
    with ThreadPoolExecutor(1) as beside, engine.connect() as tx:
        tx.execute(text(HELD))
        answer = beside.submit(accept, writers, submission("held", LARGE))
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
    with writers_of(database_url, accept_waiting_bytes_max=MIB) as writers:
        with held_up(writers, engine):
            more = [submission(str(n), LARGE) for n in range(4)]
            with pytest.raises(AcceptUnavailable):
                accept(writers, *more)

            assert isinstance(accept(writers, submission("small"))[0], Receipt)
        assert all(isinstance(one, Receipt) for one in accept(writers, *more))


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
        answers = [one for (one,) in asyncio.run(both(writers))]

    assert sum(isinstance(one, Receipt) for one in answers) == 20  # the others are conflicts
    assert _count(engine, "select count(*) from events") == 20
