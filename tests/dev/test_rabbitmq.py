"""The private RabbitMQ node is private, and comes back from being killed or wiped."""

from pathlib import Path

import pika
import psutil
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from tests.conftest import SettingsOf
from tests.support.processes import listening
from tests.support.services import Broker, Services
from veltrix.dev.children import CannotStart
from veltrix.dev.servers import rabbitmq as module
from veltrix.dev.servers.rabbitmq import RabbitMQ

QUORUM = {"x-queue-type": "quorum"}


def connect(url: str) -> BlockingConnection:
    return BlockingConnection(pika.URLParameters(url))


def publish(channel: BlockingChannel, body: bytes) -> None:
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2)
    channel.basic_publish("", "orders", body, properties, mandatory=True)


def test_everything_listens_on_loopback_only(broker: Broker) -> None:
    owner = psutil.Process()
    family = [one for one in owner.children() if one.name() in {"beam.smp", "epmd"}]

    addresses = {address for one in family for address, _ in listening(one.pid)}

    assert {one.name() for one in family} == {"beam.smp", "epmd"}
    assert addresses <= {"127.0.0.1", "::1"}
    assert len([1 for one in family if one.name() == "beam.smp" for _ in listening(one.pid)]) == 3


def test_its_schedulers_sleep_while_nothing_is_to_be_done(broker: Broker) -> None:
    (node,) = [one for one in psutil.Process().children() if one.name() == "beam.smp"]

    assert module.NO_BUSY_WAIT in " ".join(node.cmdline()).replace("-sbwt", "+sbwt")


def test_a_broker_of_a_test_is_empty_and_its_own(broker: Broker, services: Services) -> None:
    other = services.make_broker()
    with connect(broker.url) as connection:
        connection.channel().queue_declare("orders", durable=True, arguments=QUORUM)

    with connect(other.url) as connection, pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
        connection.channel().queue_declare("orders", passive=True)
    services.drop_broker(other)


def test_settings_point_at_this_tests_database_and_broker(
    broker: Broker, database_url: str, settings_of: SettingsOf
) -> None:
    settings = settings_of(hold_s=2)

    assert settings.broker_url is not None
    assert settings.broker_url.get_secret_value() == broker.url
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == database_url
    assert settings.hold_s == 2


@pytest.mark.slow
def test_killed_it_comes_back_with_its_messages_and_wiped_without(own_rabbitmq: RabbitMQ) -> None:
    url = own_rabbitmq.url()
    with connect(url) as connection:
        channel = connection.channel()
        channel.queue_declare("orders", durable=True, arguments=QUORUM)
        publish(channel, b"kept")
        assert own_rabbitmq.wait_queues_kept()

        own_rabbitmq.kill()
        with pytest.raises(AMQPConnectionError):
            connection.process_data_events(time_limit=5)

    own_rabbitmq.start()
    with connect(url) as connection:
        _, _, body = connection.channel().basic_get("orders", auto_ack=False)
    assert body == b"kept"

    own_rabbitmq.wipe()
    own_rabbitmq.start()

    assert own_rabbitmq.url() == url
    with connect(url) as connection, pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
        connection.channel().queue_declare("orders", passive=True)


def test_without_rabbitmq_a_sentence_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCRIPTS", ())
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(CannotStart, match=r"apt-get install rabbitmq-server.*VELTRIX_BROKER_URL"):
        RabbitMQ(tmp_path / "rabbitmq").start()
