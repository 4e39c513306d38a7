"""Events for Flower never wait for RabbitMQ: not to connect, not to declare, not for its alarm."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from celery.events import EventDispatcher
from kombu import Connection, Queue

from tests.support.cut import Line, line_to
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.worker.parent.celery_events import CeleryEvents


@pytest.fixture
def line(broker: Broker) -> Iterator[Line]:
    """A line to the broker that can be cut."""
    with line_to(broker.url) as line:
        yield line


@pytest.fixture
def events(line: Line) -> Iterator[CeleryEvents]:
    """A dispatcher with a connection of its own."""
    app = Celery(set_as_current=False, broker=line.url)
    connection = app.connection_for_write(heartbeat=0)
    connection.ensure_connection(max_retries=1)
    yield CeleryEvents(connection, "worker-1", app=app)
    connection.collect()


@pytest.fixture
def told(broker: Broker, events: CeleryEvents) -> Iterator[Any]:
    """What somebody who reads events has been sent."""
    with Connection(broker.url) as connection, closing(connection.channel()) as channel:
        queue = Queue("flower", events.exchange(channel), routing_key="#", exclusive=True)(channel)
        queue.declare()

        def read() -> list[dict[str, Any]]:
            found = []
            while message := queue.get(no_ack=True):
                body = message.decode()
                found += body if isinstance(body, list) else [body]
            return found

        yield read


@pytest.fixture
def flower(told: Any) -> Any:
    """The types of what somebody who reads events has been sent."""
    return lambda: [event["type"] for event in told()]


def test_an_event_arrives_whose_exchange_was_declared_with_the_connection(
    events: CeleryEvents, flower: Any
) -> None:
    events.send("worker-online")

    assert until(flower) == ["worker-online"]


def test_a_tasks_event_says_what_celerys_own_says(events: CeleryEvents, told: Any) -> None:
    fields = {"uuid": "0190a000-0000-7000-8000-000000000001", "name": "orders \u2713", "eta": None}
    own = EventDispatcher(events.connection, "worker-1", app=events.app, buffer_group={"task"})
    for dispatcher in (own, events):
        dispatcher.send("task-received", **fields)
        dispatcher.flush()

    found: list[dict[str, Any]] = []

    def came() -> bool:
        found.extend(told())
        return len(found) == 2

    until(came, what="both events")
    celerys, ours = found

    changing = {"clock": 0, "timestamp": 0}
    assert ours | changing == celerys | changing
    assert ours["clock"] == celerys["clock"] + 1
    assert ours["timestamp"] == pytest.approx(celerys["timestamp"], abs=10)


def test_events_of_tasks_wait_for_a_flush_but_not_in_any_number(
    events: CeleryEvents, flower: Any
) -> None:
    for _ in range(events.buffer_limit - 1):
        events.send("task-started", uuid="1")
    events.send("worker-online")
    assert until(flower) == ["worker-online"]

    events.send("task-started", uuid="1")

    assert until(flower) == ["task-started"] * events.buffer_limit


def test_a_broken_connection_is_not_made_again_and_the_event_is_kept(
    events: CeleryEvents, line: Line, flower: Any
) -> None:
    line.take_down()

    def is_kept() -> bool:
        events.send("worker-heartbeat", retry=True)
        return bool(events._outbound_buffer)

    until(is_kept)

    line.bring_up()
    events.send("worker-heartbeat", retry=True)
    assert not events.connection.connected
    assert flower() == []

    connection = events.app.connection_for_write(heartbeat=0)
    connection.ensure_connection(max_retries=1)
    after = CeleryEvents(connection, "worker-1", app=events.app)
    after.extend_buffer(events)
    after.flush()
    assert "worker-heartbeat" in until(flower)
    connection.close()


def test_while_rabbitmq_reads_nothing_events_are_dropped(events: CeleryEvents, flower: Any) -> None:
    events.is_blocked = True
    events.send("worker-heartbeat")
    events.is_blocked = False
    events.send("worker-online")

    assert until(flower) == ["worker-online"]


def test_an_event_that_cannot_be_written_is_dropped(events: CeleryEvents, flower: Any) -> None:
    events.send("worker-heartbeat", name="\ud800", what=object())
    events.send("worker-online")

    assert until(flower) == ["worker-online"]
