"""Each rule of RabbitMQ sees its fault on the run's real node, and is silent without it.

On recorded answers, because this machine has one node of one version: alarms and their limits,
nodes that are down or apart, members offline, RabbitMQ 4 and later (`delivery-limit` by default,
the version itself), blocked connections, a virtual host's default queue type (not in 3.10).
"""

import socket
import threading
from collections.abc import Callable, Iterable
from http.client import HTTPConnection
from itertools import chain
from typing import Any

import amqp
import pytest

from tests.conftest import SettingsOf
from tests.doctor.conftest import QUEUES, Ask, held_against, unaccepted
from tests.support.limited_user import account_of
from tests.support.odd_server import odd_server
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker.connect import BrokerAway, close_connection, open_connection
from veltrix.broker.management import Management
from veltrix.broker.rights import users
from veltrix.broker.topology import wanted
from veltrix.dev.servers.ports import free_port
from veltrix.doctor.examine import Examination, Reader, Unread, examine
from veltrix.doctor.facts.rabbitmq import BrokerQueue, LiveBroker, read_broker
from veltrix.doctor.rules import rabbitmq_node, rabbitmq_queues, rabbitmq_topology
from veltrix.settings.fields import Settings

SUBJECTS = (rabbitmq_queues.rules, rabbitmq_topology.rules, rabbitmq_node.rules)
RULES = list(chain.from_iterable(SUBJECTS))
# What one node of an old broker implies.
IMPLIED = {"B09", "B10", "B18"}


@pytest.fixture
def settings(broker: Broker) -> Settings:
    """Of this test's virtual host; no database."""
    return Settings.model_validate(
        {"broker_url": broker.url, "management_url": broker.management_url}
    )


Look = Callable[..., Examination]


@pytest.fixture
def look(settings: Settings) -> Look:
    """The rules against the broker as it is now."""

    def call(*, is_production: bool = False) -> Examination:
        readers: dict[type, Reader] = {LiveBroker: lambda: read_broker(settings, lambda: QUEUES)}
        return held_against(RULES, readers, is_production=is_production)

    return call


def test_our_topology_on_one_node_has_what_that_implies(topology: None, look: Look) -> None:
    found = look()

    assert unaccepted(found) == set()
    assert {one.id: one.accepted for one in found.findings} == {
        "B09": "single node",
        "B10": "single node",
        "B18": "old broker",
    }


def test_in_production_nothing_is_implied(topology: None, look: Look) -> None:
    # A node that has just started knows no limit of its disk yet.
    until(lambda: "B11" in unaccepted(look(is_production=True)), what="B11")

    # Besides, the run's node has RabbitMQ's own limit of disk, and one user who may do all.
    assert unaccepted(look(is_production=True)) == IMPLIED | {"B11", "B20"}


POLICIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "B01": ("orders", {"delivery-limit": 5}, "delivery-limit of queue 'orders' is 5"),
    "B03": ("orders", {"dead-letter-exchange": "veltrix.dead"}, "dead-letter-strategy"),
    "B05": (
        "orders",
        {"dead-letter-exchange": "veltrix.dead", "dead-letter-strategy": "at-least-once"},
        "overflow of queue 'orders' is not set",
    ),
    "B06": ("veltrix.dead", {"max-length": 10, "overflow": "drop-head"}, "'drop-head'"),
    "B07": ("veltrix.dead", {"message-ttl": 1000}, "message-ttl of queue 'veltrix.dead' is 1000"),
    "B04": ("orders", {"dead-letter-exchange": "nowhere"}, "'nowhere'"),
}


@pytest.mark.parametrize("id_", POLICIES)
def test_a_policy_above_ours_is_seen(topology: None, look: Look, ask: Ask, id_: str) -> None:
    queue, definition, told = POLICIES[id_]
    assert id_ not in unaccepted(look())

    rule = {"pattern": f"^{queue}$", "definition": definition, "priority": 99}
    ask("PUT", "policies/{vhost}/theirs", rule | {"apply-to": "queues"})

    found = until(lambda: [one for one in look().findings if one.id == id_], what=id_)
    assert any(told in one.found and "'theirs'" in one.origin for one in found), found


def test_a_short_consumer_timeout_is_seen(topology: None, look: Look, ask: Ask) -> None:
    """As an argument: this RabbitMQ knows no such policy."""
    assert "W15" not in unaccepted(look())

    ask("DELETE", "queues/{vhost}/orders")
    arguments = {"x-queue-type": "quorum", "x-consumer-timeout": 60_000}
    ask("PUT", "queues/{vhost}/orders", {"durable": True, "arguments": arguments})
    found = [one for one in look().findings if one.id == "W15"]
    assert [one.severity for one in found] == ["duplicate"]
    assert "delete_queue orders" in found[0].cure


def test_an_operators_policy_is_part_of_what_is_in_effect(
    topology: None, look: Look, ask: Ask
) -> None:
    theirs = {"pattern": "^mails$", "definition": {"message-ttl": 5}, "apply-to": "queues"}
    ask("PUT", "operator-policies/{vhost}/bound", theirs)

    found = until(lambda: [one for one in look().findings if one.id == "B07"], what="B07")
    assert "'bound'" in found[0].origin
    assert "clear_operator_policy bound" in found[0].cure


def test_without_policies_dead_letters_are_dropped(topology: None, look: Look, ask: Ask) -> None:
    ask("DELETE", "policies/{vhost}/veltrix.runs")

    found = until(lambda: [one for one in look().findings if one.id == "B01"], what="B01")
    assert {one.origin for one in found} == {"no policy"}


def test_a_limit_of_dead_letters_is_a_loss_and_of_runs_a_delay(
    topology: None, look: Look, ask: Ask
) -> None:
    theirs = {"pattern": ".", "definition": {"expires": 10**9}, "priority": 99}
    ask("PUT", "policies/{vhost}/theirs", theirs | {"apply-to": "queues"})

    found = until(lambda: [one for one in look().findings if one.id == "B07"], what="B07")
    kinds = {one.found.split("'")[1]: one.severity.value for one in found}
    assert kinds == {
        "orders": "stall",
        "mails": "stall",
        "veltrix.dead": "loss",
        "veltrix.unroutable": "loss",
    }


def test_a_circle_of_queues_with_a_ttl_is_seen(topology: None, look: Look, channel: Any) -> None:
    assert "B08" not in unaccepted(look())

    for name, target, ttl in (("work", "later", None), ("later", "work", 60_000)):
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": target}
        extra = {} if ttl is None else {"x-message-ttl": ttl}
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments | extra)

    found = [one for one in look().findings if one.id == "B08"]
    assert [one.found for one in found] == ["message-ttl of queue 'later' is 60000"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("queues/{vhost}/orders", "declare queue orders"),
        ("exchanges/{vhost}/veltrix.runs", "declare exchange veltrix.runs"),
        ("bindings/{vhost}/e/veltrix.runs/q/orders/orders", "bind binding veltrix.runs -> orders"),
    ],
)
def test_what_is_not_there_is_missed(
    topology: None, look: Look, ask: Ask, path: str, told: str
) -> None:
    assert "P12" not in unaccepted(look())

    ask("DELETE", path)

    found = [one.found for one in look().findings if one.id == "P12"]
    assert f"to be done: {told}" in found


def test_an_alternate_exchange_of_our_runs_is_seen(topology: None, look: Look, ask: Ask) -> None:
    assert "P02" not in unaccepted(look())

    theirs = {"pattern": "^veltrix.runs$", "definition": {"alternate-exchange": "veltrix.dead"}}
    ask("PUT", "policies/{vhost}/ae", theirs | {"apply-to": "exchanges"})

    until(lambda: "P02" in unaccepted(look()), what="P02")


@pytest.mark.parametrize(
    ("name", "options", "severity"),
    [("orders", {"durable": False}, "stall"), ("veltrix.dead", {"auto_delete": True}, "loss")],
)
def test_a_queue_that_does_not_stay_is_seen(
    topology: None, look: Look, ask: Ask, name: str, options: Any, severity: str
) -> None:
    ask("DELETE", f"queues/{{vhost}}/{name}")
    ask("PUT", f"queues/{{vhost}}/{name}", {"durable": True} | options)

    found = {(one.id, one.severity.value) for one in look().findings if one.accepted is None}
    assert ("P20", severity) in found
    assert ("B09", "loss") in found  # it is a classic queue, too


def test_an_exchange_that_does_not_stay_is_seen(topology: None, look: Look, ask: Ask) -> None:
    ask("DELETE", "exchanges/{vhost}/veltrix.inbound")
    ask("PUT", "exchanges/{vhost}/veltrix.inbound", {"type": "topic", "durable": False})

    found = [one.found for one in look().findings if one.id == "P20"]
    assert found == ["exchange 'veltrix.inbound' is transient"]


def test_a_queue_with_arguments_of_its_own_is_seen(topology: None, look: Look, ask: Ask) -> None:
    assert "B13" not in unaccepted(look())

    ask("DELETE", "queues/{vhost}/orders")
    arguments = {"x-queue-type": "quorum", "x-max-length": 7}
    ask("PUT", "queues/{vhost}/orders", {"durable": True, "arguments": arguments})

    found = [one.found for one in look().findings if one.id == "B13"]
    assert found == ["queue 'orders' was declared with {'x-max-length': 7}"]


def test_messages_that_nobody_consumes_are_seen(topology: None, look: Look, channel: Any) -> None:
    for name in ("orders", "veltrix.dead"):
        channel.basic_publish(amqp.Message("{}"), "", name)

    until(lambda: unaccepted(look()) >= {"P21", "O10"}, what="P21 and O10")
    found = {one.id: one for one in look().findings}
    assert "VELTRIX_WORKER_QUEUES=orders" in found["P21"].cure
    assert found["O10"].severity.value == "blind"


@pytest.mark.parametrize(("prefetch", "no_ack"), [(0, False), (1, True)])
def test_a_consumer_without_a_limit_is_seen(
    topology: None, look: Look, channel: Any, prefetch: int, no_ack: bool
) -> None:
    channel.basic_qos(0, 5, a_global=False)
    channel.basic_consume("mails")
    assert "W22" not in unaccepted(look())

    channel.basic_qos(0, prefetch, a_global=False)
    channel.basic_consume("orders", no_ack=no_ack)

    found = until(lambda: [one for one in look().findings if one.id == "W22"], what="W22")
    assert "a consumer of 'orders'" in found[0].found


def test_celerys_delays_without_a_binding_are_seen(topology: None, look: Look, ask: Ask) -> None:
    ask("PUT", "exchanges/{vhost}/celery_delayed_delivery", {"type": "topic", "durable": True})
    assert "W27" in unaccepted(look())

    path = "bindings/{vhost}/e/celery_delayed_delivery/q/orders"
    ask("POST", path, {"routing_key": "#.orders"})

    assert "W27" not in unaccepted(look())


def test_a_connection_without_heartbeats_is_seen(
    topology: None, look: Look, broker: Broker
) -> None:
    assert "P11" not in unaccepted(look())

    connection = open_connection(broker.url, name="careless", heartbeat_s=0)
    try:
        found = until(lambda: [one for one in look().findings if one.id == "P11"], what="P11")
    finally:
        close_connection(connection)

    assert found[0].found.startswith("connection 'careless' of user 'veltrix'")


def test_who_only_asks_workers_needs_no_heartbeat_and_who_consumes_runs_does(
    topology: None, look: Look, broker: Broker
) -> None:
    connection = open_connection(broker.url, name="celery of flower", heartbeat_s=0)
    try:
        channel = connection.channel()
        careless = open_connection(broker.url, name="careless", heartbeat_s=0)
        found = until(lambda: [one for one in look().findings if one.id == "P11"], what="P11")
        assert ["'careless'" in one.found for one in found] == [True]
        close_connection(careless)
        channel.basic_qos(0, 1, a_global=False)
        channel.basic_consume("orders")
        flower = "'celery of flower'"
        until(
            lambda: [o for o in look().findings if o.id == "P11" and flower in o.found],
            what="that it consumes",
        )
    finally:
        close_connection(connection)


def test_our_own_users_may_have_their_rights(topology: None, look: Look, broker: Broker) -> None:
    for user in users():
        account_of(broker, user)  # their names end with the virtual host's: strangers here

    found = [one.found for one in look(is_production=True).findings if one.id == "B20"]

    assert any(f"'veltrix-relay-{broker.vhost}'" in one for one in found)
    assert not any("'veltrix-api-" in one for one in found)


# What this machine cannot have.


def recorded(version: str = "4.3.5", **parts: Any) -> LiveBroker:
    """A broker as its answers are."""
    broker = LiveBroker(wanted(QUEUES), version, "shop")
    nothing: dict[str, Any] = dict.fromkeys(
        ("exchanges", "bindings", "policies", "nodes", "connections", "consumers", "permissions"),
        (),
    )
    broker.parts = nothing | {"queues": {}, "depths": {}, "vhost": {}} | parts
    return broker


def ids(broker: LiveBroker, *, is_production: bool = False) -> set[str]:
    found = examine(RULES, {LiveBroker: lambda: broker}, is_production=is_production)
    return unaccepted(found)


def quorum(members: int, online: int, **limits: Any) -> BrokerQueue:
    names = [f"rabbit@{number}" for number in range(members)]
    safe = {"dead-letter-exchange": "d", "dead-letter-strategy": "at-least-once"}
    return BrokerQueue(
        name="orders",
        type="quorum",
        members=names,
        online=names[:online],
        node=names[0],
        policy="ours",
        effective_policy_definition=safe | {"overflow": "reject-publish", **limits},
    )


NODE = {"name": "rabbit@1", "running": True, "disk_free_limit": 2 * 10**9, "partitions": []}


@pytest.mark.parametrize(
    ("answer", "is_seen"),
    [
        ({}, False),
        ({"mem_alarm": True}, True),
        ({"disk_free_alarm": True}, True),
        ({"disk_free_limit": 50_000_000}, True),
    ],
)
def test_recorded_alarms_and_limits(answer: dict[str, Any], is_seen: bool) -> None:
    assert ("B11" in ids(recorded(nodes=[NODE | answer]), is_production=True)) is is_seen


@pytest.mark.parametrize("answer", [{"running": False}, {"partitions": ["rabbit@2"]}])
def test_recorded_nodes_that_are_away(answer: dict[str, Any]) -> None:
    assert "B10" not in ids(recorded(nodes=[NODE]))
    assert "B10" in ids(recorded(nodes=[NODE | answer]))


@pytest.mark.parametrize(
    ("members", "online", "seen"),
    [
        (3, 3, set()),
        (3, 2, {"B10"}),
        (5, 4, set()),
        (5, 3, {"B10"}),
        (2, 2, {"B09", "B10"}),
        (1, 1, set()),  # implied by a single node
    ],
)
def test_recorded_members_of_a_cluster(members: int, online: int, seen: set[str]) -> None:
    broker = recorded(queues={"orders": quorum(members, online, **{"delivery-limit": 100})})

    assert ids(broker) & {"B09", "B10"} == seen


@pytest.mark.parametrize(
    ("type_", "nodes", "is_seen"),
    [("classic", 1, False), ("classic", 3, True), ("quorum", 1, True)],
    ids=["one_node", "cluster", "to_be_changed"],
)
def test_a_recorded_classic_queue_is_for_one_node(type_: Any, nodes: int, is_seen: bool) -> None:
    queues = {
        "orders": BrokerQueue(name="orders", type="classic", node="rabbit@0"),
        "veltrix.dead": quorum(nodes, nodes),
    }
    broker = recorded(queues=queues)
    broker.wanted = wanted(QUEUES, None, type_)

    found = examine(RULES, {LiveBroker: lambda: broker}, is_production=False)
    told = [one for one in found.findings if one.found.startswith("classic queue 'orders'")]

    assert [one.id for one in told] == ["B09"]
    assert (told[0].accepted is None) is is_seen
    assert told[0].cure == "VELTRIX_QUEUE_TYPE=quorum for every process; a relay then changes it"


def test_recorded_versions() -> None:
    queues = {"orders": quorum(3, 3)}

    assert ids(recorded("3.13.7", queues=queues)) & {"B01"} == set()  # no limit by default
    assert ids(recorded("4.3.5", queues=queues)) & {"B01", "B18"} == {"B01"}
    assert ids(recorded("4.3.4"), is_production=True) >= {"B18"}
    assert "B18" not in ids(recorded("4.10.0"), is_production=True)


def test_a_recorded_connection_that_is_blocked() -> None:
    row = {"name": "1 -> 2", "user": "shop", "timeout": 30, "protocol": "AMQP 0-9-1"}

    assert "P06" not in ids(recorded(connections=[row | {"state": "running"}]))
    assert "P06" in ids(recorded(connections=[row | {"state": "blocked"}]))


def test_a_recorded_default_queue_type() -> None:
    queues = {"theirs": BrokerQueue(name="theirs", type="quorum")}

    assert "B14" not in ids(recorded(queues=queues, vhost={"default_queue_type": "classic"}))
    assert "B14" in ids(recorded(queues=queues, vhost={"default_queue_type": "quorum"}))


# What cannot be read.


def reasons(settings: Settings, rules: Iterable[Any] = RULES) -> tuple[Examination, set[str]]:
    found = examine(rules, {LiveBroker: lambda: read_broker(settings, lambda: QUEUES)})
    return found, {one.reason for one in found.not_checked}


def test_a_broker_that_is_away_is_one_sentence_without_its_password() -> None:
    port = free_port()
    for changes in ({}, {"management_url": f"http://u:secret@127.0.0.1:{port}"}):
        away = {"broker_url": f"amqp://u:secret@127.0.0.1:{port}/x"}
        found, told = reasons(Settings.model_validate(away | changes))

        assert len(found.not_checked) == len(RULES)
        assert len(told) == 1
        assert "cannot be reached" in next(iter(told))
        assert "secret" not in next(iter(told))


def test_management_that_never_ends_its_answer_is_given_up() -> None:
    with odd_server(None) as url:
        management = Management(url.replace("//", "//user:secret@"), "/")
        with management.one_connection(whole_s=1.0):
            for _ in range(2):
                with pytest.raises(BrokerAway):
                    management.get("/api/overview")


def test_management_that_refuses_is_told_with_the_cure(topology: None, broker: Broker) -> None:
    wrong = broker.management_url.replace(":", ":x", 2).replace("http:x", "http:")
    _, told = reasons(Settings.model_validate({"broker_url": broker.url, "management_url": wrong}))

    assert len(told) == 1
    assert "refuses to tell overview (401)" in next(iter(told))


def test_a_virtual_host_that_is_not_there_is_told(broker: Broker) -> None:
    url = broker.url.replace(broker.vhost, "nowhere")
    found, told = reasons(
        Settings.model_validate({"broker_url": url, "management_url": broker.management_url})
    )

    assert any("(404)" in one for one in told)
    assert found.held  # what does not need it was checked


def test_what_a_user_may_not_see_is_not_checked_and_the_rest_is(
    topology: None, broker: Broker
) -> None:
    relay = next(user for user in users() if user.role == "relay")
    _, management = account_of(broker, relay)
    found, told = reasons(
        Settings.model_validate({"broker_url": broker.url, "management_url": management})
    )

    assert found.held > len(RULES) / 2
    assert any("`monitoring`" in one for one in told)
    assert {one.id for one in found.not_checked} <= {"B10", "B11", "B14", "B20", "P11"}


def test_amqp_alone_tells_what_is_there(
    topology: None, broker: Broker, settings_of: SettingsOf, ask: Ask
) -> None:
    settings = Settings.model_validate({"broker_url": broker.url})
    found, told = reasons(settings)
    assert unaccepted(found) == set()
    assert all("VELTRIX_MANAGEMENT_URL" in one for one in told)

    ask("DELETE", "queues/{vhost}/mails")

    found, _ = reasons(settings)
    assert [one.found for one in found.findings if one.id == "P12"] == ["'mails' is not there"]


def test_a_part_that_was_refused_is_unread() -> None:
    broker = recorded()
    broker.refused["nodes"] = "not for you"

    with pytest.raises(Unread, match="not for you"):
        broker.rows("nodes")


def test_all_is_read_in_few_requests_over_one_connection(
    topology: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, asked = [], []
    connect, ask_for = socket.create_connection, HTTPConnection.request
    reader = threading.get_ident()

    def counted(*args: Any, **kwargs: Any) -> socket.socket:
        if threading.get_ident() == reader:  # other threads may be asking, too
            connected.append(args)
        return connect(*args, **kwargs)

    def requested(self: HTTPConnection, method: str, path: str, *args: Any) -> None:
        if threading.get_ident() == reader:
            asked.append(path)
        ask_for(self, method, path, *args)

    monkeypatch.setattr(socket, "create_connection", counted)
    monkeypatch.setattr(HTTPConnection, "request", requested)
    read_broker(settings, lambda: QUEUES)

    assert len(connected) == 1
    assert 5 < len(asked) <= 11, asked
