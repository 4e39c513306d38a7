"""Hints reach RabbitMQ at once, never overtake what waits, and are never needed."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tests.support.cut import line_to
from tests.support.due_runs import add_runs, read_runs, subscribe
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker.message import limits_of, messages_for
from veltrix.domain.due import DueRun
from veltrix.pipeline.relay.connections import make_declarer
from veltrix.pipeline.relay.hint_looks import HintLooks
from veltrix.pipeline.relay.hints import HintRelay
from veltrix.settings.fields import Settings
from veltrix.store import loads
from veltrix.store.transactions import make_engine, open_autocommit, transaction


@contextmanager
def hinting(settings: Settings) -> Iterator[HintRelay]:
    assert settings.database_url is not None
    engine = make_engine(settings.database_url.get_secret_value(), application="hints")
    hints = HintRelay(settings, engine, name="api@test")
    hints.start()
    try:
        yield hints
    finally:
        hints.stop()


@pytest.fixture
def channel(settings: Settings) -> Iterator[Any]:
    """A pika channel, to be the worker and the operator."""
    assert settings.broker_url is not None
    connection = pika.BlockingConnection(pika.URLParameters(settings.broker_url.get_secret_value()))
    yield connection.channel()
    connection.close()


def fetch(channel: Any, queue: str = "orders") -> list[str]:
    found: list[str] = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.extend(json.loads(body)[0][0])


def hint(hints: HintRelay, engine: Engine, count: int) -> list[str]:
    ids = add_runs(engine, count, is_hinted=True)
    hints.offer([DueRun(run_id, "fulfil", "orders") for run_id in ids])
    return ids


def open_room(hints: HintRelay) -> None:
    until(lambda: hints.take_credit("orders", 1), what="room for hints")


def test_a_hint_is_in_the_queue_at_once(settings: Settings, engine: Engine, channel: Any) -> None:
    subscribe(engine)
    with hinting(settings) as hints:
        assert not hints.is_up()
        open_room(hints)
        assert hints.is_up()
        ids = hint(hints, engine, 3)

        assert until(lambda: fetch(channel), deadline_s=10, what="the message") == ids


def test_room_is_held_for_who_took_it(settings: Settings, engine: Engine) -> None:
    subscribe(engine)
    with hinting(settings) as hints:
        open_room(hints)

        def take_twice() -> tuple[int, int]:
            return hints.take_credit("orders", 1_000), hints.take_credit("orders", 1_000)

        until(lambda: take_twice() == (8, 0), what="a fresh view")


def test_what_is_due_has_the_room_first(settings: Settings, engine: Engine) -> None:
    subscribe(engine)
    subscribe(engine, "write", "mails")
    with hinting(settings) as hints:
        open_room(hints)
        add_runs(engine, 6)
        until(lambda: hints.take_credit("orders", 1_000) == 2, what="six due runs to be seen")
        add_runs(engine, 2)
        until(lambda: not hints.take_credit("orders", 1), what="the queue's room to be theirs")

        assert hints.take_credit("mails", 1) == 1


def test_hints_go_beside_as_many_due_runs_as_the_queue_has_room_for(
    settings: Settings, engine: Engine
) -> None:
    """Else a flood whose first second came due would come due for ever (decision 20)."""
    subscribe(engine)
    claimed = round(2 * 3_000 / settings.queue_bound_s)
    with transaction(engine) as tx:
        loads.report(tx, "w@1", "w", {"queues": {"orders": {"claimed_2s": claimed}}, "children": 1})
    with hinting(settings) as hints:
        until(lambda: hints.take_credit("orders", 9_000) == 3_000, what="room for 3,000")
        add_runs(engine, 1_500)
        until(lambda: hints.take_credit("orders", 9_000) == 1_500, what="1,500 due to be seen")
        add_runs(engine, 1_500)
        until(lambda: not hints.take_credit("orders", 1), what="the queue's room to be theirs")


def test_there_is_no_room_for_a_queue_that_holds_enough(settings: Settings, engine: Engine) -> None:
    subscribe(engine)
    with hinting(settings) as hints:
        open_room(hints)
        hint(hints, engine, 8)
        until(lambda: not hints.take_credit("orders", 1), what="the queue to be seen full")


def test_without_rabbitmq_there_is_no_room_and_nothing_waits(
    settings_of: Callable[..., Settings], engine: Engine
) -> None:
    subscribe(engine)
    with hinting(settings_of(broker_url="amqp://guest:guest@127.0.0.1:1//")) as hints:
        began = time.monotonic()
        assert hints.take_credit("orders", 1) == 0
        ids = hint(hints, engine, 1)

        assert time.monotonic() - began < 1
        until(lambda: read_runs(engine, ids, "hand_overs") == [(0,)], what="due at once")


def test_a_returned_hint_is_due_at_once_and_its_binding_is_made_again(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    with hinting(settings) as hints:
        open_room(hints)
        channel.queue_unbind("orders", "veltrix.runs", "orders")
        ids = hint(hints, engine, 2)

        until(lambda: read_runs(engine, ids, "hand_overs") == [(0,), (0,)], what="due at once")
        until(
            lambda: (hint(hints, engine, 1), fetch(channel))[1], what="the queue to be bound again"
        )


def test_what_a_database_cannot_take_back_is_given_back_at_the_next_look(
    settings: Settings, engine: Engine
) -> None:
    """A server that has become a stand-by answers, and writes nothing."""
    subscribe(engine)
    ids = add_runs(engine, 2, is_hinted=True)
    runs = [DueRun(run_id, "fulfil", "orders") for run_id in ids]
    lost = deque(messages_for(runs, "api@test", limits_of(settings), {}))
    looks = HintLooks(settings, make_declarer(settings, "looks"), deque(), lost, time.monotonic)
    with open_autocommit(engine) as tx:
        tx.exec_driver_sql("set default_transaction_read_only = on")
        with pytest.raises(DBAPIError):
            looks.once(tx, time.monotonic(), 0, is_connected=False)
        assert read_runs(engine, ids, "hand_overs") == [(1,), (1,)]

        tx.exec_driver_sql("set default_transaction_read_only = off")
        looks.once(tx, time.monotonic(), 0, is_connected=False)

    assert read_runs(engine, ids, "hand_overs") == [(0,), (0,)]
    assert not lost


def test_hints_that_were_not_confirmed_are_due_when_rabbitmq_is_back(
    settings_of: Callable[..., Settings], broker: Broker, engine: Engine
) -> None:
    subscribe(engine)
    with line_to(broker.url) as line, hinting(settings_of(broker_url=line.url)) as hints:
        open_room(hints)
        line.swallow_answer_to(b"fulfil", stays_down=False)
        ids = hint(hints, engine, 2)
        assert line.swallowed.wait(5)

        # Within their hold of 8 s: nobody waits for its end.
        until(lambda: read_runs(engine, ids, "hand_overs") == [(0,), (0,)], 4, "due at once")


def test_hints_go_on_after_the_connection_was_cut(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    with hinting(settings) as hints:
        open_room(hints)
        hints._publisher._sock.shutdown(2)

        def arrived() -> list[str]:
            hint(hints, engine, 1)
            return fetch(channel)

        until(arrived, what="a hint to arrive over the new connection")


def test_a_hint_costs_the_accepting_thread_less_than_a_millisecond(
    settings: Settings, engine: Engine
) -> None:
    subscribe(engine)
    with hinting(settings) as hints:
        open_room(hints)
        took = []
        for number in range(200):
            run = DueRun(f"0192f0c1-1111-7111-8111-{number:012}", "fulfil", "orders")
            began = time.perf_counter()
            hints.take_credit("orders", 1)
            hints.offer([run])
            took.append(time.perf_counter() - began)

        assert sorted(took)[20] < 0.001, "where nobody else took the processor from it"
