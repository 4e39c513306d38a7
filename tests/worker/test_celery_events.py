"""Events for Flower never wait for RabbitMQ: not to connect, not to declare, not for its alarm."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Queue

from app.worker.celery_events import CeleryEvents
from tests.support.cut import Line, line_to
from tests.support.services import Broker
from tests.support.wait import until


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
def flower(broker: Broker, events: CeleryEvents) -> Iterator[Any]:
    """What somebody who reads events has been sent: their types."""
    with Connection(broker.url) as connection, closing(connection.channel()) as channel:
        queue = Queue("flower", events.exchange(channel), routing_key="#", exclusive=True)(channel)
        queue.declare()

        def types() -> list[str]:
            found = []
            while message := queue.get(no_ack=True):
                found.append(message.decode()["type"])
            return found

        yield types


def test_an_event_arrives_whose_exchange_was_declared_with_the_connection(
    events: CeleryEvents, flower: Any
) -> None:
    events.send("worker-online")

    assert until(flower) == ["worker-online"]


def test_a_broken_connection_is_not_made_again_and_the_event_is_kept(
    events: CeleryEvents, line: Line, flower: Any
) -> None:
    line.take_down()
    until(lambda: events.send("worker-heartbeat", retry=True) or events._outbound_buffer)

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
