"""A cluster keeps its queues on three members, and its address outlives any one of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import amqp
import psutil
import pytest

from tests.support.processes import listening
from tests.support.services import Services
from tests.support.wait import until
from veltrix.broker.topology import declare
from veltrix.dev.children import CannotStart
from veltrix.dev.servers import deployed as module
from veltrix.dev.servers.cluster import Cluster
from veltrix.dev.servers.deployed import deployed
from veltrix.dev.servers.rabbitmq import manage

NAMES = ["veltrix1", "veltrix2", "veltrix3"]
QUEUE = "orders"


@pytest.fixture(scope="module")
def cluster(services: Services) -> Iterator[Cluster]:
    made = Cluster(services.folder("cluster"))
    made.start()
    yield made
    made.kill()
    made.stop()


def connect(url: str) -> amqp.Connection:
    """With confirms: `basic_publish` returns when the message is safe."""
    parts = urlsplit(url)
    made = amqp.Connection(
        f"{parts.hostname}:{parts.port}",
        userid=parts.username,
        password=parts.password,
        confirm_publish=True,
        read_timeout=20,
    )
    made.connect()
    return made


class Publisher:
    """Publishes one message after the other to one address, connecting again as needed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: amqp.Connection | None = None
        self.confirmed: list[str] = []

    def publish(self, count: int) -> None:
        """So many more are confirmed."""
        goal = len(self.confirmed) + count
        while len(self.confirmed) < goal:
            until(self._is_confirmed, 30.0, "a message to be confirmed")

    def _is_confirmed(self) -> bool:
        body = str(len(self.confirmed))
        self._connection = self._connection or connect(self._url)
        try:
            message = amqp.Message(body, delivery_mode=2)
            self._connection.channel(1).basic_publish(message, routing_key=QUEUE, timeout=20)
        except (amqp.AMQPError, amqp.exceptions.MessageNacked, OSError):
            self.close()
            return False
        self.confirmed.append(body)
        return True

    def close(self) -> None:
        if self._connection is not None:
            self._connection.collect()
        self._connection = None


def taken(url: str) -> list[str]:
    """All messages of the queue, acknowledged."""
    connection = connect(url)
    bodies = []
    while (message := connection.channel(1).basic_get(QUEUE, no_ack=True)) is not None:
        bodies.append(message.body)
    connection.close()
    return bodies


def running(cluster: Cluster) -> list[str]:
    """The members that run, as management at the one address tells."""
    parts = urlsplit(cluster.management_url)
    assert parts.port is not None
    told = json.loads(manage(parts.port, parts.password or "", "GET", "/api/nodes"))
    return sorted(node["name"].partition("@")[0] for node in told if node["running"])


@pytest.mark.slow
def test_every_queue_of_the_deployed_topology_has_three_members(cluster: Cluster) -> None:
    queues = json.loads(deployed("rabbitmq/topology.json").read_text())["queues"]

    assert running(cluster) == NAMES
    assert [cluster.members_of(queue["name"]) for queue in queues] == [NAMES] * len(queues)
    assert cluster.members_of("no such queue") == []


@pytest.mark.slow
def test_all_of_it_listens_on_loopback_only(cluster: Cluster) -> None:
    family = psutil.Process().children()

    names = {one.name() for one in family}
    addresses = {address for one in family for address, _ in listening(one.pid)}

    assert {"beam.smp", "epmd", "haproxy"} <= names
    assert addresses <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_a_killed_leader_is_replaced_and_comes_back_and_the_address_stays(
    cluster: Cluster,
) -> None:
    address = cluster.url(), cluster.management_url
    publisher = Publisher(cluster.url())
    publisher.publish(20)
    assert cluster.wait_queues_kept()

    for _ in range(2):
        killed = cluster.leader_of(QUEUE)
        cluster.members[killed].kill()
        publisher.publish(20)

        assert cluster.leader_of(QUEUE) != killed
        assert killed in cluster.members_of(QUEUE)
        cluster.wait_members(QUEUE, online=2)
        until(lambda: killed not in running(cluster), 10, "management to know")  # noqa: B023
        cluster.members[killed].start()
        cluster.wait_members(QUEUE, online=3)

    publisher.close()
    assert (cluster.url(), cluster.management_url) == address
    assert running(cluster) == NAMES
    bodies = taken(cluster.url())
    assert set(bodies) == set(publisher.confirmed)


@pytest.mark.slow
def test_each_member_in_turn_may_die_without_the_address_refusing_anybody(
    cluster: Cluster,
) -> None:
    publisher = Publisher(cluster.url())
    assert cluster.wait_queues_kept()

    for name, member in cluster.members.items():
        member.kill()
        assert cluster.is_running
        publisher.publish(10)
        assert name not in running(cluster)
        member.start()
        cluster.wait_members(QUEUE)

    publisher.close()
    assert set(taken(cluster.url())) == set(publisher.confirmed)


def test_without_the_deployed_files_a_sentence_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEPLOY", tmp_path / "deploy")
    cluster = Cluster(tmp_path / "cluster")

    with pytest.raises(CannotStart, match="it comes with the source"):
        cluster.start()

    assert not cluster.is_running


@pytest.mark.slow
def test_classic_queues_of_a_member_that_is_away_are_named_and_others_are_used(
    cluster: Cluster,
) -> None:
    before = connect(cluster.url())
    assert declare(before.channel(1), ["apart"], "classic") == set()
    before.close()
    home = cluster.leader_of("apart")
    assert cluster.members_of("apart") == [home]
    cluster.members[home].kill()
    try:
        until(lambda: home not in running(cluster), 60, "the member to be missed")
        during = connect(cluster.url())
        assert declare(during.channel(1), ["apart", QUEUE, "new"], "classic") == {"apart"}
        assert set(cluster.members_of(QUEUE)) == set(NAMES), "it is used as it is"
        assert cluster.members_of("new") != [home]
        during.collect()
    finally:
        cluster.members[home].start()
    cluster.wait_members("apart", online=1)
    after = connect(cluster.url())
    assert declare(after.channel(1), ["apart", "new"], "classic") == set()
    after.close()
