"""The relay hands over what is due, keeps queues short, and loses nothing when RabbitMQ does."""

import json
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import pika
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from tests.support.cut import line_to
from tests.support.due_runs import add_runs, change_runs, read_runs, subscribe
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.pipeline.relay.relay import Relay, make_relay
from veltrix.settings.fields import Settings
from veltrix.store import loads
from veltrix.store.transactions import transaction

WAITED = Event()  # never set: its wait is a pause
DEAD_HANDS = "state = 'running', lease_token = gen_random_uuid(), due_at = now() - interval '1 s'"


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def relaying(settings: Settings, engine: Engine, **changes: Any) -> Iterator[Relay]:
    relay = make_relay(settings, engine, name="relay@test", **changes)
    try:
        yield relay
    finally:
        relay.close()


@pytest.fixture
def channel(settings: Settings) -> Iterator[Any]:
    """A pika channel, to be the worker and the operator."""
    assert settings.broker_url is not None
    connection = pika.BlockingConnection(pika.URLParameters(settings.broker_url.get_secret_value()))
    yield connection.channel()
    if connection.is_open:
        connection.close()


def fetch(channel: Any, queue: str = "orders") -> list[tuple[Any, Any]]:
    """All messages of a queue as (properties, body), acknowledged."""
    found: list[tuple[Any, Any]] = []
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            return found
        found.append((properties, json.loads(body)))


def settle_down(relay: Relay, rounds: int = 200) -> None:
    """Relay until nothing is left to hand over and everything is confirmed."""
    for _ in range(rounds):
        counts = relay.relay_once()
        if not counts.has_work and not relay.unconfirmed:
            return
        WAITED.wait(0.01)


def names_in(messages: list[tuple[Any, Any]]) -> list[str]:
    return [run_id for _, body in messages for run_id in body[0][0]]


def test_due_runs_arrive_as_celery_messages_of_one_list_each(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 20)
    with relaying(settings, engine) as relay:
        messages: list[tuple[Any, Any]] = []

        def all_arrived() -> bool:
            settle_down(relay)
            new = fetch(channel)
            messages.extend(new)
            settled = "state = 'succeeded', due_at = null, settled_at = now()"
            change_runs(engine, names_in(new), settled)
            return len(names_in(messages)) == 20

        until(all_arrived, what="every run to arrive once")

    assert sorted(names_in(messages)) == ids
    for properties, body in messages:
        (run_ids,), kwargs, embed = body
        assert len(run_ids) <= settings.list_runs_unmeasured
        assert properties.message_id == properties.headers["id"] == run_ids[0]
        assert properties.headers["task"] == "fulfil"
        assert properties.headers["veltrix_bytes"] == 2 * len(run_ids)
        assert properties.headers["veltrix_alone"] is False
        assert properties.delivery_mode == 1
        assert kwargs == {}
        assert embed["chord"] is None


def test_a_queue_is_given_no_more_than_its_room_and_the_rest_waits_in_the_database(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 100)
    with relaying(settings, engine) as relay:
        settle_down(relay)

        assert len(names_in(fetch(channel))) == settings.list_runs_unmeasured
        handed = [row for row in read_runs(engine, ids, "hand_overs") if row[0]]
        assert len(handed) == settings.list_runs_unmeasured


@pytest.mark.parametrize(
    ("claimed_2s", "occupied_s", "room"),
    [
        (1_400, 0.001, 700),  # what a second took
        (0, 0.001, 400),  # eight lists
        (0, 0.02, 16),
        (0, 0.4, 2),  # a second of work
        (0, 5.0, 1),
    ],
)
def test_room_follows_what_workers_claim(
    settings: Settings,
    engine: Engine,
    channel: Any,
    claimed_2s: int,
    occupied_s: float,
    room: int,
) -> None:
    subscribe(engine)
    add_runs(engine, 800)
    load = {
        "queues": {"orders": {"claimed_2s": claimed_2s}},
        "workflows": {"fulfil": {"occupied_s": occupied_s}},
        "children": 1,
    }
    with transaction(engine) as tx:
        loads.report(tx, "w1", "w@host", load)
    with relaying(settings, engine) as relay:
        settle_down(relay)

    messages = fetch(channel)
    assert len(names_in(messages)) == room
    in_a_list = max(len(body[0][0]) for _, body in messages)
    assert in_a_list == max(1, int(settings.list_work_s / occupied_s))


@pytest.mark.parametrize(("waits_s", "room"), [(0.2, 400), (2.0, 50)])
def test_a_queue_that_does_not_keep_up_has_room_for_a_list(
    settings: Settings, engine: Engine, channel: Any, waits_s: float, room: int
) -> None:
    """Beside the quick workflow there is one that is slow: eight lists are many seconds."""
    subscribe(engine)
    waiting = add_runs(engine, 10, is_hinted=True)
    change_runs(engine, waiting, f"due_at = due_at - {waits_s} * interval '1 second'")
    add_runs(engine, 800)
    load = {
        "queues": {"orders": {"claimed_2s": 20}},
        "workflows": {"fulfil": {"occupied_s": 0.001}},
        "children": 1,
    }
    with transaction(engine) as tx:
        loads.report(tx, "w1", "w@host", load)
    with relaying(settings, engine) as relay:
        settle_down(relay)

    assert len(names_in(fetch(channel))) == room


def test_a_run_that_must_travel_alone_has_a_message_of_its_own(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 5)
    change_runs(engine, ids[:2], "alone = true")
    with relaying(settings, engine) as relay:
        settle_down(relay)

    found = sorted((p.headers["veltrix_alone"], len(b[0][0])) for p, b in fetch(channel))
    assert found == [(False, 3), (True, 1), (True, 1)]


def test_a_relay_that_just_reached_the_database_rescues_nobody_for_one_hold(
    settings: Settings, engine: Engine
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 1)
    change_runs(engine, ids, DEAD_HANDS)
    clock = Clock()
    with relaying(settings, engine, monotonic=clock) as relay:
        relay.relay_once()
        clock.now += 3
        relay.relay_once()
        assert read_runs(engine, ids, "state") == [("running",)]
        clock.now += 3
        relay.relay_once()
        clock.now += 3
        counts = relay.relay_once()

        assert counts.rescued == 1
        assert read_runs(engine, ids, "state, alone") == [("queued", True)]


def test_a_relay_that_was_stopped_for_a_while_rescues_nobody_for_one_hold(
    settings: Settings, engine: Engine
) -> None:
    subscribe(engine)
    clock = Clock()
    with relaying(settings, engine, monotonic=clock) as relay:
        for _ in range(5):
            relay.relay_once()
            clock.now += 3
        ids = add_runs(engine, 1)
        change_runs(engine, ids, DEAD_HANDS)
        clock.now += 10
        assert relay.relay_once().rescued == 0
        rescued = 0
        for _ in range(3):
            clock.now += 3
            rescued += relay.relay_once().rescued

        assert rescued == 1


def test_nothing_moves_while_rabbitmq_is_away_and_everything_due_is_published_when_it_returns(
    settings_of: Callable[..., Settings], engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 5)
    before = read_runs(engine, ids, "due_at, hand_overs")
    away = settings_of(broker_url="amqp://guest:guest@127.0.0.1:1//")
    with relaying(away, engine) as relay:
        assert relay.relay_once().handed == 0
        assert not relay.is_connected
    assert read_runs(engine, ids, "due_at, hand_overs") == before

    with relaying(settings_of(), engine) as relay:
        settle_down(relay)
    assert sorted(names_in(fetch(channel))) == ids


def test_a_deleted_queue_is_declared_again_and_its_runs_are_due_at_once(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 6)
    with relaying(settings, engine) as relay:
        settle_down(relay)
        channel.queue_delete("orders")
        more = add_runs(engine, 2)
        until(lambda: relay.relay_once().made_due, what="the queue to be found missing")
        arrived: list[str] = []

        def all_arrived() -> bool:
            settle_down(relay)
            arrived.extend(names_in(fetch(channel)))
            return set(arrived) == {*ids, *more}

        until(all_arrived, deadline_s=10, what="all runs to arrive again")


def test_what_is_returned_to_a_database_that_writes_nothing_is_given_back_to_the_next(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    """A server that has become a stand-by answers, and writes nothing."""
    subscribe(engine)
    with relaying(settings, engine) as relay:
        add_runs(engine, 1)  # the queue holds something: it is not taken for one that lost it all
        until(lambda: relay.relay_once().confirmed, what="the queue to have a message")
        settle_down(relay)
        channel.queue_unbind("orders", "veltrix.runs", "orders")
        add_runs(engine, 1)
        until(lambda: relay.relay_once().handed, what="the run to be handed over")
        assert select.select([relay._publisher], [], [], 5)[0], "it is returned"
        assert relay._database is not None
        relay._database.exec_driver_sql("set default_transaction_read_only = on")
        with pytest.raises(DBAPIError):
            relay.relay_once()

        assert relay.relay_once().made_due == 1


def test_a_returned_message_makes_its_runs_due_and_the_binding_is_made_again(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    with relaying(settings, engine) as relay:
        settle_down(relay)
        channel.queue_unbind("orders", "veltrix.runs", "orders")
        ids = add_runs(engine, 3)
        until(lambda: relay.relay_once().returned, what="the message to be returned")

        assert [row[0] for row in read_runs(engine, ids, "hand_overs")] == [0, 0, 0]
        until(lambda: relay.relay_once().handed == 3, what="the runs to be handed over again")
        settle_down(relay)
        assert sorted(names_in(fetch(channel))) == ids


def test_a_purged_queue_without_consumers_is_noticed_however_long_the_hold(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 4)
    clock = Clock()
    with relaying(settings, engine, monotonic=clock) as relay:
        settle_down(relay)
        until(
            lambda: channel.queue_declare("orders", passive=True).method.message_count,
            what="the message to be ready",
        )
        change_runs(engine, ids, "hand_overs = 6, due_at = now() + interval '250 seconds'")
        channel.queue_purge("orders")
        made_due = 0
        for _ in range(4):
            clock.now += 2.1
            made_due += relay.relay_once().made_due
        settle_down(relay)

        assert made_due == 4
        assert sorted(names_in(fetch(channel))) == ids


def test_a_full_queue_pauses_and_its_neighbour_does_not(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    channel.queue_declare(
        "orders",
        durable=True,
        arguments={"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"},
    )
    channel.exchange_declare("veltrix.runs", "topic", durable=True)
    channel.queue_bind("orders", "veltrix.runs", "orders")
    for _ in range(5):
        channel.basic_publish("", "orders", b"in the way")
    subscribe(engine, "fulfil", "orders")
    subscribe(engine, "write", "mails")
    with relaying(settings, engine) as relay:
        full = add_runs(engine, 3)
        nacked = 0

        def is_refused() -> bool:
            nonlocal nacked
            nacked += relay.relay_once().nacked
            return nacked > 0

        until(is_refused, what="the full queue to refuse")
        free = add_runs(engine, 3, workflow="write", queue="mails")
        settle_down(relay)

        assert relay.is_connected
        assert sorted(names_in(fetch(channel, "mails"))) == free
        assert [row[0] for row in read_runs(engine, full, "state")] == ["queued"] * 3


def test_a_flood_on_one_queue_does_not_keep_another_waiting(
    settings: Settings, engine: Engine, channel: Any
) -> None:
    subscribe(engine, "fulfil", "orders")
    subscribe(engine, "write", "mails")
    add_runs(engine, 2_000)
    (mail,) = add_runs(engine, 1, workflow="write", queue="mails")
    with relaying(settings, engine) as relay:
        settle_down(relay)

    assert names_in(fetch(channel, "mails")) == [mail]


def test_runs_whose_messages_were_not_confirmed_are_handed_over_again_at_once(
    settings_of: Callable[..., Settings], broker: Broker, engine: Engine, channel: Any
) -> None:
    subscribe(engine)
    with line_to(broker.url) as line:
        settings = settings_of(broker_url=line.url)
        with relaying(settings, engine) as relay:
            settle_down(relay)
            ids = add_runs(engine, 2)
            change_runs(engine, ids, "started_at = now() - interval '1 hour'")
            line.swallow_answer_to(b"fulfil", stays_down=False)
            until(lambda: (relay.relay_once(), line.swallowed.is_set())[1], what="the cut")
            assert sorted(names_in(fetch(channel))) == ids, "they had arrived"

            def arrived_again() -> list[str]:
                settle_down(relay, 1)
                return names_in(fetch(channel))

            # Their hold is 8 s: this is sooner.
            assert sorted(until(arrived_again, 4, "them again")) == ids
