"""Who is not told by RabbitMQ that a queue was deleted is not deaf for ever."""

from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from amqp import ConsumerCancelled
from kombu import Connection, Producer, Queue

from tests.support.services import Broker
from tests.support.wait import until
from veltrix.worker.parent.listening import ANEW_S, Listening

ORDERS = Queue("orders", durable=True, queue_arguments={"x-queue-type": "quorum"})
# Without this word of the client RabbitMQ says nothing when it cancels a consumer: what 3.10 was
# seen to do to clients that know the word, when a quorum queue is deleted under load.
DEAF = {"client_properties": {"capabilities": {"consumer_cancel_notify": False}}}


class Worker:
    """Listens to the queue by a connection of its own, and keeps what it is given."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.got: list[Any] = []
        self.messages: list[Any] = []
        self.listening = Listening(
            connection, [ORDERS(connection.default_channel)], self._take, self._refuse, 0.0
        )
        self.listening.take({"orders": 250}, 0.0)

    def _take(self, message: Any) -> None:
        self.got.append(message.body)
        self.messages.append(message)

    def _refuse(self, message: Any, error: BaseException) -> None:
        raise AssertionError(message, error)

    def listen(self) -> list[Any]:
        """Take in what has come by now; everything that has come."""
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=0.05)
        return self.got


@pytest.fixture
def other(broker: Broker) -> Iterator[Any]:
    """A channel of somebody else."""
    with Connection(broker.url) as connection, closing(connection.channel()) as channel:
        yield channel


@pytest.fixture
def worker(broker: Broker, other: Any) -> Iterator[Worker]:
    ORDERS(other).declare()
    with Connection(broker.url, transport_options=DEAF) as connection:
        yield Worker(connection)


def publish(channel: Any, body: str) -> None:
    """Into the queue, which is there."""
    Producer(channel).publish(body, routing_key="orders", serializer="raw")


def delete_unheard(other: Any) -> None:
    """The queue is another one, and its consumers are not told."""
    ORDERS(other).delete()
    ORDERS(other).declare()


def test_a_queue_that_was_deleted_unheard_is_listened_to_anew(worker: Worker, other: Any) -> None:
    publish(other, "before")
    until(lambda: worker.listen() == ["before"])
    delete_unheard(other)
    publish(other, "after")

    worker.listening.listen_anew([], ANEW_S - 0.1)
    for _ in range(10):
        assert worker.listen() == ["before"], "what the new queue gives to the old channel is gone"
    worker.listening.listen_anew([], ANEW_S)

    until(lambda: worker.listen() == ["before", "after"])


def test_a_queue_of_which_something_is_here_is_left_alone(worker: Worker, other: Any) -> None:
    publish(other, "unacknowledged")
    until(lambda: worker.listen() == ["unacknowledged"])

    worker.listening.listen_anew(["orders"], ANEW_S)
    worker.listening.listen_anew([], 2 * ANEW_S - 0.1)
    for _ in range(10):
        assert worker.listen() == ["unacknowledged"]

    worker.listening.listen_anew([], 2 * ANEW_S)
    until(lambda: worker.listen() == ["unacknowledged"] * 2, what="it from the new channel")


def test_who_takes_no_more_waits_for_no_answer(worker: Worker, other: Any) -> None:
    worker.listening.take_no_more()
    publish(other, "late")

    for _ in range(10):
        assert worker.listen() == []
    assert ORDERS(other).get(no_ack=True).body == "late"


def test_what_is_given_back_keeps_its_place_and_goes_to_who_takes(
    worker: Worker, other: Any, broker: Broker
) -> None:
    for number in range(3):
        publish(other, str(number))
    until(lambda: worker.listen() == ["0", "1", "2"])
    worker.listening.take_no_more()
    for message in worker.messages:
        message.requeue()
    for _ in range(10):
        assert worker.listen() == ["0", "1", "2"], "nothing comes back to who takes no more"

    worker.listening.take({"orders": 1}, 0.0)
    until(lambda: worker.listen() == ["0", "1", "2", "0"])
    with Connection(broker.url) as connection:
        free = Worker(connection)
        until(lambda: free.listen() == ["1", "2"])


def test_nothing_is_lost_however_often_it_stops_and_begins(worker: Worker, other: Any) -> None:
    wanted = [str(number) for number in range(300)]
    for number, body in enumerate(wanted):
        publish(other, body)
        if number % 10 == 0:
            worker.listening.take({"orders": 1 + number % 7}, 0.0)
            worker.listen()
            worker.listening.take_no_more()
        for message in worker.messages:
            message.ack()
        worker.messages.clear()
    worker.listening.take({"orders": 300}, 0.0)

    until(lambda: sorted(worker.listen(), key=int) == wanted, 20.0)


def test_a_queue_is_heard_only_while_its_consumer_lives(broker: Broker, other: Any) -> None:
    ORDERS(other).declare()
    with Connection(broker.url) as connection:
        heard = Worker(connection)
        publish(other, "one")
        until(lambda: heard.listen() == ["one"])
        assert heard.listening.has("orders")
        assert not heard.listening.has("flights")

        ORDERS(other).delete()

        def listen() -> None:
            while True:
                connection.drain_events(timeout=5)

        with pytest.raises(ConsumerCancelled):
            listen()
        assert not heard.listening.has("orders")

        ORDERS(other).declare()
        heard.listening.take({"orders": 1}, 0.0)
        assert heard.listening.has("orders")
        heard.listening.take_no_more()
        assert not heard.listening.has("orders")
