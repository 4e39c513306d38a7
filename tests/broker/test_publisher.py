"""The publisher believes only what RabbitMQ confirmed, and never waits for it."""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pika
import pytest

from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker.connect import BrokerAway
from veltrix.broker.message import ListLimits, Message, messages_for
from veltrix.broker.publisher import Polled, Publisher
from veltrix.dev.servers.rabbitmq import RabbitMQ, _scripts
from veltrix.domain.due import DueRun

LIMITS = ListLimits(runs_max=250, runs_unmeasured=8, bytes_max=1 << 22, work_s=0.05)


def make(url: str, **changes: Any) -> Publisher:
    options = {"unconfirmed_max": 1_000, "confirm_timeout_s": 15.0, "heartbeat_s": 30}
    return Publisher(url, name="publisher@test", **(options | changes))


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A pika channel on a virtual host with the queue `orders`."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.exchange_declare("veltrix.runs", "topic", durable=True)
    channel.queue_declare("orders", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind("orders", "veltrix.runs", "orders")
    yield channel
    connection.close()


@pytest.fixture
def publisher(broker: Broker, channel: Any) -> Iterator[Publisher]:
    publisher = make(broker.url)
    publisher.connect()
    yield publisher
    publisher.close()


def messages(count: int, queue: str = "orders") -> list[Message]:
    runs = [DueRun(f"0192f0c1-1111-7111-8111-{n:012}", "fulfil", queue, 7) for n in range(count)]
    return [m for run in runs for m in messages_for([run], "relay@test", LIMITS, {})]


def answers(publisher: Publisher, count: int, deadline_s: float = 10.0) -> Polled:
    """Everything said until `count` messages have their answer."""
    said = Polled([], [], [])

    def all_said() -> bool:
        new = publisher.poll(0.05)
        said.confirmed.extend(new.confirmed)
        said.nacked.extend(new.nacked)
        said.returned.extend(new.returned)
        return len(said.confirmed) + len(said.nacked) + len(said.returned) == count

    until(all_said, deadline_s, what=f"{count} answers")
    return said


def test_what_is_confirmed_is_in_the_queue(publisher: Publisher, channel: Any) -> None:
    sent = messages(300)
    assert publisher.publish(sent) == 300
    said = answers(publisher, 300)

    assert said.confirmed == sent
    assert publisher.unconfirmed == 0
    found = [channel.basic_get("orders", auto_ack=True) for _ in range(300)]
    assert [p.message_id for _, p, _ in found] == [m.id for m in sent]
    assert json.loads(found[0][2]) == json.loads(sent[0].body)
    assert found[0][1].headers["timelimit"] == [None, None]


def test_a_message_larger_than_a_frame_arrives_whole(publisher: Publisher, channel: Any) -> None:
    runs = [DueRun(f"0192f0c1-1111-7111-8111-{n:012}", "fulfil", "orders") for n in range(4_000)]
    big = ListLimits(runs_max=5_000, runs_unmeasured=5_000, bytes_max=1 << 22, work_s=0.05)
    (message,) = messages_for(runs, "relay@test", big, {})
    publisher.publish([message])
    answers(publisher, 1)

    assert json.loads(channel.basic_get("orders", auto_ack=True)[2])[0][0] == message.run_ids


def test_an_unroutable_message_is_returned_and_never_called_confirmed(
    publisher: Publisher,
) -> None:
    good, lost = messages(2), messages(3, queue="nowhere")
    publisher.publish([good[0], *lost, good[1]])
    said = answers(publisher, 5)

    assert said.returned == lost
    assert said.confirmed == good
    assert publisher.poll(0.2) == Polled([], [], [])


def test_a_full_queue_refuses_and_the_connection_stays(
    publisher: Publisher, channel: Any, broker: Broker
) -> None:
    full = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", durable=True, arguments=full)
    channel.queue_bind("full", "veltrix.runs", "full")
    refused: list[Message] = []

    def is_refused() -> list[Message]:
        publisher.publish(messages(5, queue="full"))
        refused.extend(answers(publisher, 5).nacked)
        return refused

    until(is_refused, what="the full queue to refuse")
    publisher.publish(messages(1))

    assert publisher.is_connected
    assert len(answers(publisher, 1).confirmed) == 1


def test_no_more_is_unconfirmed_than_the_bound(broker: Broker, channel: Any) -> None:
    publisher = make(broker.url, unconfirmed_max=10)
    publisher.connect()

    assert publisher.publish(messages(25)) == 10
    assert publisher.window == 0
    answers(publisher, 10)
    assert publisher.window == 10
    publisher.close()


def test_a_missing_exchange_gives_the_connection_up_and_leaves_everything_unconfirmed(
    publisher: Publisher, channel: Any
) -> None:
    channel.exchange_delete("veltrix.runs")
    publisher.publish(messages(3))
    confirmed: list[Message] = []

    def gives_up() -> bool:
        try:
            confirmed.extend(publisher.poll(0.05).confirmed)
        except BrokerAway as error:
            return "404" in str(error)
        return False

    until(gives_up, what="the publisher to give up")
    assert confirmed == []
    assert not publisher.is_connected
    assert publisher.unconfirmed == publisher.window == 0


def test_a_cut_connection_is_said_at_once(publisher: Publisher) -> None:
    publisher._sock.shutdown(2)

    with pytest.raises(BrokerAway):
        publisher.poll(1)
    with pytest.raises(BrokerAway):
        publisher.publish(messages(1))


def test_after_connecting_again_old_confirms_mean_nothing(
    publisher: Publisher, channel: Any
) -> None:
    publisher.publish(messages(5))
    publisher.connect()
    assert publisher.unconfirmed == 0
    sent = messages(1)
    publisher.publish(sent)

    assert answers(publisher, 1).confirmed == sent


def test_an_error_names_no_password() -> None:
    with pytest.raises(BrokerAway) as caught:
        make("amqp://user:hush@127.0.0.1:1//").connect()

    assert "hush" not in str(caught.value)


def test_an_overdue_confirm_gives_the_connection_up(broker: Broker, channel: Any) -> None:
    now = 1_000.0
    publisher = make(broker.url, monotonic=lambda: now)
    publisher.connect()
    publisher._read = lambda: None  # type: ignore[method-assign]  # RabbitMQ says nothing
    publisher.publish(messages(1))
    publisher.poll()
    now += 16

    with pytest.raises(BrokerAway, match="no confirm"):
        publisher.poll()


def test_an_idle_connection_is_kept_alive_by_heartbeats(broker: Broker, channel: Any) -> None:
    publisher = make(broker.url, heartbeat_s=1)
    publisher.connect()
    began = time.monotonic()

    def outlived_it() -> bool:
        publisher.poll(0.1)
        return time.monotonic() - began > 4

    until(outlived_it, what="four heartbeats to pass")
    publisher.publish(messages(1))
    assert len(answers(publisher, 1).confirmed) == 1
    publisher.close()


@pytest.mark.slow
def test_a_memory_alarm_pauses_publishing_and_kills_nothing(
    own_rabbitmq: RabbitMQ,
) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(own_rabbitmq.url()))
    declare_by_pika(connection.channel())
    connection.close()
    publisher = make(own_rabbitmq.url(), confirm_timeout_s=1.0)
    publisher.connect()
    control(own_rabbitmq, "set_vm_memory_high_watermark", "0.00001")
    publisher.publish(messages(5))

    def is_blocked() -> bool:
        publisher.poll(0.05)
        return publisher.is_blocked

    until(is_blocked, what="the alarm to be heard of")
    began = time.monotonic()

    def outlived_the_confirm_timeout() -> bool:
        assert publisher.window == 0
        assert publisher.poll(0.05).confirmed == []
        return time.monotonic() - began > 2.5

    until(outlived_the_confirm_timeout, what="two confirm timeouts to pass")
    control(own_rabbitmq, "set_vm_memory_high_watermark", "0.4")
    assert len(answers(publisher, 5, deadline_s=20).confirmed) == 5
    publisher.close()


def control(node: RabbitMQ, *words: str) -> None:
    """`rabbitmqctl` on this node."""
    scripts = _scripts()
    subprocess.run(
        [scripts / "rabbitmqctl", *words],
        env=node._environment(scripts),
        check=True,
        capture_output=True,
        timeout=60,
    )


def declare_by_pika(channel: Any) -> None:
    channel.exchange_declare("veltrix.runs", "topic", durable=True)
    channel.queue_declare("orders", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind("orders", "veltrix.runs", "orders")


def test_what_a_connection_leaves_unconfirmed_is_told_once(publisher: Publisher) -> None:
    sent = messages(3)
    publisher.publish(sent)
    publisher.close()

    assert publisher.take_lost() == sent
    assert publisher.take_lost() == []

    publisher.connect()
    publisher.publish(sent)
    until(lambda: publisher.poll(0.1).confirmed == sent or not publisher.unconfirmed)
    publisher.close()
    assert publisher.take_lost() == []
