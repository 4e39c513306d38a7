"""The topology is data; a broker is made to have it, and nothing is destroyed for it."""

import gc
import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pika
import pika.exceptions
import pytest

from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker.connect import close_connection, open_connection
from veltrix.broker.declarer import Declarer
from veltrix.broker.management import Management, live_by_amqp
from veltrix.broker.topology import (
    Binding,
    LiveQueue,
    LiveTopology,
    Policy,
    Queue,
    Topology,
    TopologyRefused,
    apply,
    check_queue_name,
    declare,
    definitions,
    plan,
    wanted,
)

QUEUES = ["orders", "mails"]
BOTH = pytest.mark.parametrize("type_", ["quorum", "classic"])


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A py-amqp channel."""
    connection = open_connection(broker.url, name="tests", heartbeat_s=30)
    yield connection.channel()
    close_connection(connection)


@pytest.fixture
def management(broker: Broker) -> Management:
    return Management(broker.management_url, broker.vhost)


@pytest.fixture
def declarer(broker: Broker) -> Iterator[Declarer]:
    declarer = Declarer(broker.url, name="tests", heartbeat_s=30)
    yield declarer
    declarer.close()


def has(live: LiveTopology, topology: Topology) -> bool:
    return plan(live, topology) == []


def test_a_plan_that_was_applied_leaves_nothing_to_do(channel: Any, management: Management) -> None:
    topology = wanted(QUEUES)
    apply(plan(management.live(), topology), channel, management.put_policy)

    assert has(management.live(), topology)


@BOTH
def test_workflow_queues_are_of_the_type_asked_for_and_nets_are_quorum_queues(
    channel: Any, management: Management, type_: Any
) -> None:
    assert declare(channel, QUEUES, type_) == set()

    types = {queue.name: queue.type for queue in wanted(QUEUES, None, type_).queues}
    nets = dict.fromkeys(["veltrix.dead", "veltrix.unroutable"], "quorum")
    assert types == dict.fromkeys(QUEUES, type_) | nets
    assert {q.name: q.type for q in management.live().queues.values()} == types
    for queue in definitions(QUEUES, type_=type_)["queues"]:
        assert queue["arguments"] == {"x-queue-type": types[queue["name"]]}


def test_the_exchange_of_runs_has_no_alternate_exchange() -> None:
    (runs,) = (x for x in wanted(QUEUES).exchanges if x.name == "veltrix.runs")

    assert runs.arguments == {}


def test_limits_lose_nothing() -> None:
    (policy,) = (p for p in wanted(QUEUES).policies if p.name == "veltrix.runs")

    assert policy.definition["overflow"] == "reject-publish"
    assert policy.definition["dead-letter-strategy"] == "at-least-once"
    assert policy.definition["dead-letter-exchange"] == "veltrix.dead"
    assert not {"message-ttl", "expires"} & policy.definition.keys()


@pytest.mark.slow
def test_a_policy_matches_the_queues_it_names_and_no_other(
    channel: Any, management: Management
) -> None:
    channel.queue_declare("orders.other", durable=True, auto_delete=False)
    topology = wanted(["orders", "orders.eu"])
    apply(plan(management.live(), topology), channel, management.put_policy)

    def effective() -> dict[str, str | None]:
        queues = management.get(f"/api/queues/{management._vhost}")
        return {q["name"]: q.get("policy") for q in queues}

    until(lambda: effective().get("orders"), what="the policy to take effect")
    until(
        lambda: (
            effective()
            == {
                "orders": "veltrix.runs",
                "orders.eu": "veltrix.runs",
                "orders.other": None,
                "veltrix.dead": "veltrix.dead",
                "veltrix.unroutable": "veltrix.dead",
            }
        ),
        what="each queue to have its policy",
    )


def test_a_queue_of_another_type_is_refused_with_the_cure_and_nothing_is_changed(
    channel: Any, management: Management
) -> None:
    channel.queue_declare("orders", durable=True, auto_delete=False)
    changes = plan(management.live(), wanted(QUEUES))
    with pytest.raises(TopologyRefused, match="delete it"):
        apply(changes, channel, management.put_policy)

    live = management.live()
    assert live.queues["orders"].type == "classic"
    assert "mails" not in live.queues


def test_an_exchange_of_another_type_is_refused(channel: Any, management: Management) -> None:
    channel.exchange_declare("veltrix.runs", "direct", durable=True, auto_delete=False)
    refused = [c for c in plan(management.live(), wanted(QUEUES)) if c.refused]

    assert [str(c).split(":")[0] for c in refused] == ["declare exchange veltrix.runs"]


def test_what_is_not_ours_is_left_alone(channel: Any, management: Management) -> None:
    channel.queue_declare("foreign", durable=True, auto_delete=False)
    management.put_policy(Policy("foreign", "^foreign$", {"max-length": 5}))
    apply(plan(management.live(), wanted(QUEUES)), channel, management.put_policy)
    live = management.live()

    assert live.queues["foreign"].type == "classic"
    assert live.policies is not None
    assert live.policies["foreign"].definition == {"max-length": 5}


def test_a_missing_binding_is_planned(channel: Any, management: Management) -> None:
    topology = wanted(["orders"])
    apply(plan(management.live(), topology), channel, management.put_policy)
    channel.queue_unbind("orders", "veltrix.runs", "orders")

    assert [c.subject for c in plan(management.live(), topology)] == [
        Binding("veltrix.runs", "orders", "orders")
    ]


def test_over_amqp_alone_a_missing_queue_is_seen(broker: Broker, channel: Any) -> None:
    declare(channel, ["orders"])
    live = live_by_amqp(broker.url, wanted(QUEUES))

    assert live.queues["orders"] == LiveQueue("orders", None, 0, 0)
    assert Queue("mails") in [c.subject for c in plan(live, wanted(QUEUES))]
    assert Queue("orders") not in [c.subject for c in plan(live, wanted(QUEUES))]


def test_declaring_says_what_was_missing_and_what_is_empty(declarer: Declarer) -> None:
    first = declarer.ensure(QUEUES)
    second = declarer.ensure(QUEUES)

    assert first.missing == sorted(QUEUES)
    assert second.missing == []
    assert second.empty == second.unconsumed == sorted(QUEUES)


def test_one_queue_that_cannot_be_declared_stops_no_other(declarer: Declarer, channel: Any) -> None:
    channel.queue_declare("orders", durable=True, auto_delete=False)
    found = declarer.ensure(QUEUES)

    assert list(found.refused) == ["orders"]
    assert declarer.look(["mails"]).missing == []


def test_many_missing_queues_are_declared_by_one_call(declarer: Declarer) -> None:
    names = [f"team-{number}" for number in range(20)]
    found = declarer.ensure(names)

    assert found.there == sorted(names)
    assert sorted(found.missing + found.unconsumed) == sorted(names)
    assert declarer.look(names).empty == sorted(names)


def test_what_a_call_does_not_reach_is_in_none_of_its_lists(
    declarer: Declarer, channel: Any
) -> None:
    names = [f"team-{number}" for number in range(9)]
    for name in names[:6]:
        channel.queue_declare(name, durable=True, auto_delete=False)
    first = declarer.ensure(names)
    second = declarer.ensure([name for name in names if name not in first.refused])

    assert len(first.refused) == 4
    assert set(first.there) == set(names[:6])
    assert set(first.there) | set(second.there) == set(names)


def test_looking_again_and_again_leaves_no_garbage(declarer: Declarer) -> None:
    """A relay looks every two seconds for years, and collects garbage once an hour."""
    declarer.ensure(QUEUES)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            declarer.look(QUEUES)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_connection_with_nothing_to_look_at_is_kept_alive(broker: Broker) -> None:
    """RabbitMQ closed it, and with it the relay gave up its publisher, again and again."""
    with closing(Declarer(broker.url, name="tests", heartbeat_s=1)) as declarer:
        declarer.ensure(QUEUES)
        kept, began = declarer._connection, time.monotonic()

        def outlived_it() -> bool:
            declarer.look(())
            return time.monotonic() - began > 4

        until(outlived_it, what="four heartbeats to pass")
        assert declarer.look(QUEUES).missing == []
        assert declarer._connection is kept


def test_a_look_after_a_missing_queue_finds_the_others(declarer: Declarer) -> None:
    declarer.ensure(QUEUES)

    assert declarer.look(["aaa", *QUEUES]).missing == ["aaa"]
    assert declarer.look(QUEUES).missing == []


@BOTH
def test_definitions_make_a_blank_virtual_host_whole(
    broker: Broker, management: Management, type_: Any
) -> None:
    body = definitions(QUEUES, vhost=broker.vhost, type_=type_)
    management._ask("POST", "/api/definitions", json.loads(json.dumps(body)))

    assert has(management.live(), wanted(QUEUES, None, type_))


def test_definitions_of_the_other_type_leave_queues_that_are_there_to_the_relay(
    broker: Broker, management: Management, channel: Any
) -> None:
    """A node boots with them: compose's were of quorum queues once."""
    declare(channel, ["orders"], "quorum")
    body = definitions(QUEUES, vhost=broker.vhost, type_="classic")
    management._ask("POST", "/api/definitions", json.loads(json.dumps(body)))

    live = management.live().queues
    assert {name: live[name].type for name in QUEUES} == {"orders": "quorum", "mails": "classic"}


def test_what_is_full_is_refused_by_a_classic_queue_too_and_what_is_rejected_is_kept(
    broker: Broker, management: Management, channel: Any
) -> None:
    declare(channel, ["orders"], "classic")
    target = wanted(["orders"], None, "classic")
    (policy,) = (p for p in target.policies if p.name == "veltrix.runs")
    management.put_policy(
        Policy(policy.name, policy.pattern, policy.definition | {"max-length": 2})
    )
    with closing(pika.BlockingConnection(pika.URLParameters(broker.url))) as connection:
        publisher = connection.channel()
        publisher.confirm_delivery()

        def is_refused() -> bool:  # by a policy that takes effect after a while
            try:
                publisher.basic_publish("veltrix.runs", "orders", b"x", mandatory=True)
            except pika.exceptions.NackError:
                return True
            return False

        until(is_refused, what="a full queue to refuse")
        method, _, _ = publisher.basic_get("orders")
        publisher.basic_reject(method.delivery_tag, requeue=False)
        until(lambda: publisher.basic_get("veltrix.dead")[0] is not None, what="the dead letter")


@pytest.mark.parametrize("name", ["", "x" * 201, "ö", "veltrix.dead", "amq.gen", "celeryev.1"])
def test_names_that_belong_to_others_are_no_workflow_queues(name: str) -> None:
    with pytest.raises(ValueError, match="queue"):
        check_queue_name(name)
