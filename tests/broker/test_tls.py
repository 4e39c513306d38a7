"""RabbitMQ over TLS: who is not the one that was meant is told nothing, by no client of ours."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from select import select
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPError

from tests.support.services import Broker
from tests.support.tls import Authority, TlsLine, tls_line
from tests.support.wait import until
from veltrix.broker.broken import Health, health_of
from veltrix.broker.celery_app import make_celery
from veltrix.broker.connect import (
    BrokerAway,
    broker_url,
    close_connection,
    drain_decrypted,
    open_connection,
    pika_parameters,
)
from veltrix.broker.drain import Drain
from veltrix.broker.management import Management, live_by_amqp
from veltrix.broker.message import ListLimits, messages_for
from veltrix.broker.topology import wanted
from veltrix.domain.due import DueRun
from veltrix.pipeline.relay.connections import make_declarer, make_publisher
from veltrix.policies import management_of
from veltrix.settings.fields import Settings

QUEUES = ["orders"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def line(broker: Broker, authority: Authority) -> Iterator[TlsLine]:
    """The right way to this test's virtual host."""
    with tls_line(broker.url, authority.certify()) as line:
        yield line


def settings_for(line: TlsLine, authority: Authority | None) -> Settings:
    ca_file = None if authority is None else authority.file
    return Settings(broker_url=line.url, broker_ca_file=ca_file)


def by_py_amqp(settings: Settings) -> None:
    close_connection(open_connection(broker_url(settings), name="tests", heartbeat_s=5))


def by_pika(settings: Settings) -> None:
    parameters = pika_parameters(broker_url(settings), name="tests", heartbeat_s=5)
    with closing(pika.BlockingConnection(parameters)):
        pass


def by_celery(settings: Settings) -> None:
    """Workers and Flower connect so."""
    with make_celery(settings, [], QUEUES).connection_for_read() as connection:
        connection.transport.establish_connection().close()


def by_a_question(settings: Settings) -> None:
    if health_of(broker_url(settings), "none", name="tests") is Health.UNKNOWN:
        raise BrokerAway


def by_topology(settings: Settings) -> None:
    live_by_amqp(broker_url(settings), wanted([]))


CLIENTS: list[Callable[[Settings], None]] = [
    by_py_amqp, by_pika, by_celery, by_a_question, by_topology
]  # fmt: skip
REFUSALS = (BrokerAway, OSError, AMQPError)


@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_believes_the_certificate_of_the_ca_it_was_told(
    line: TlsLine, authority: Authority, client: Callable[[Settings], None]
) -> None:
    client(settings_for(line, authority))

    assert line.taken == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_says_a_word_to_whom_it_cannot_believe(
    broker: Broker,
    authority: Authority,
    tmp_path: Path,
    client: Callable[[Settings], None],
) -> None:
    other = Authority(tmp_path / "other")
    frauds = {
        "another name": (authority.certify("evil.example"), authority),
        "expired": (authority.certify(is_expired=True), authority),
        "another CA": (other.certify(), authority),
        "a CA that the system does not know": (authority.certify(), None),
    }
    for what, (certificate, believed) in frauds.items():
        with tls_line(broker.url, certificate) as line:
            with pytest.raises(REFUSALS):
                client(settings_for(line, believed))
            assert line.taken == 0, what


def test_everything_of_the_path_works_over_tls(line: TlsLine, authority: Authority) -> None:
    settings = settings_for(line, authority)
    runs = [DueRun(f"0192f0c1-1111-7111-8111-{n:012}", "fulfil", "orders", 7) for n in range(9_000)]
    messages = messages_for(runs, "relay@test", ListLimits(1, 1, 1 << 22, 0.05), {})
    with (
        closing(make_declarer(settings, "tests")) as declarer,
        closing(make_publisher(settings, "tests")) as publisher,
    ):
        assert declarer.ensure(QUEUES).there == QUEUES
        publisher.connect()
        confirmed, waiting = 0, messages
        while confirmed < len(messages):
            waiting = waiting[publisher.publish(waiting) :]
            confirmed += len(publisher.poll(0.2).confirmed)
        assert declarer.look(QUEUES).empty == []
    kept: list[Any] = []

    def keep(some: list[Any]) -> int:
        kept.extend(some)
        return len(some)

    drain = Drain(broker_url(settings), name="tests", heartbeat_s=5, keep=keep)
    with closing(drain), closing(pika.BlockingConnection(_parameters(settings))) as connection:
        channel = connection.channel()
        for n in range(300):
            channel.basic_publish("veltrix.dead", "x", b"%d" % n * 500)
        until(lambda: not drain.drain_once(0.2) and len(kept) == 300, 10, "the letters")

    assert len({letter.body for letter in kept}) == 300


def _parameters(settings: Settings) -> pika.URLParameters:
    return pika_parameters(broker_url(settings), name="tests", heartbeat_s=5)


def test_what_stands_behind_an_answer_in_a_record_is_not_left_there(
    line: TlsLine, authority: Authority
) -> None:
    """There, a worker's loop would not see it until RabbitMQ says more."""
    taken: list[Any] = []
    with make_celery(settings_for(line, authority), [], []).connection_for_read() as connection:
        channel = connection.default_channel
        name = channel.queue_declare("", exclusive=True).queue
        channel.basic_consume(name, no_ack=True, callback=taken.append)
        line.hold()
        for _ in range(20):
            message = channel.prepare_message(b"x")
            channel._basic_publish(message, "", name)
        # Each of the twenty takes more than a hundred bytes.
        until(lambda: line.held > 2_200, what="the messages to come together")
        line.let_go()

        connection.drain_events(timeout=5)
        assert select([connection.connection.sock], [], [], 0.1)[0] == []
        assert len(taken) == 1
        drain_decrypted(connection)

        assert len(taken) == 20


def test_a_connection_is_let_go_without_waiting_for_a_goodbye(
    line: TlsLine, authority: Authority
) -> None:
    """TLS ends with a word from both sides, and the other may have none."""
    connection = open_connection(
        broker_url(settings_for(line, authority)), name="tests", heartbeat_s=5
    )
    connection.sock.settimeout(10)
    line.fall_silent()
    began = time.monotonic()

    close_connection(connection)

    assert time.monotonic() - began < 1


def test_the_management_api_is_checked_by_the_same_ca(broker: Broker, authority: Authority) -> None:
    for names, is_believed in ((("localhost",), True), (("evil.example",), False)):
        with tls_line(broker.management_url, authority.certify(*names)) as line:
            settings = Settings(
                broker_url=broker.url, management_url=line.url, broker_ca_file=authority.file
            )
            management = management_of(settings)
            assert isinstance(management, Management)
            if is_believed:
                assert management.messages_by_queue() == {}
            else:
                with pytest.raises(BrokerAway, match="certificate"):
                    management.messages_by_queue()
                assert line.taken == 0


def test_what_is_less_than_tls_1_2_is_not_spoken(authority: Authority) -> None:
    settings = Settings(broker_url="amqps://localhost", broker_ca_file=authority.file)
    url = broker_url(settings)

    assert pika_parameters(url, name="t", heartbeat_s=5).ssl_options.context.minimum_version >= (
        ssl.TLSVersion.TLSv1_2
    )
    celery = make_celery(settings, [], [])
    assert celery.conf.broker_use_ssl["tls_minimum_version"] >= ssl.TLSVersion.TLSv1_2
