"""Each process has a user of RabbitMQ's that may do what it needs, and nothing else."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import amqp
import pytest

from tests.support.limited_user import account_of
from tests.support.services import Broker
from veltrix.broker.broken import Bound, Health, Renewal, health_of, renew
from veltrix.broker.connect import close_connection, open_connection
from veltrix.broker.declarer import Declarer
from veltrix.broker.management import Management, ManagementRefused
from veltrix.broker.message import MESSAGE_BYTES_MAX
from veltrix.broker.rights import commands, permissions, users
from veltrix.broker.topology import declare, is_queue_name, wanted
from veltrix.worker.parent.outsiders import _brief

ROLES = {user.role: user for user in users()}
PIDBOX = "one@host.celery.pidbox"
HEARTBEAT_S = 30


@contextmanager
def channel_of(url: str) -> Iterator[Any]:
    """A channel of this user's."""
    connection = open_connection(url, name="tests", heartbeat_s=HEARTBEAT_S)
    try:
        yield connection.channel()
    finally:
        close_connection(connection)


@pytest.fixture
def stage(broker: Broker) -> Broker:
    """What a platform has in RabbitMQ: our queues, and Celery's for events and questions."""
    with channel_of(broker.url) as channel:
        declare(channel, ["orders"])
        channel.exchange_declare("celeryev", "topic", durable=True, auto_delete=False)
        channel.exchange_declare("celery.pidbox", "fanout", durable=False, auto_delete=False)
        channel.exchange_declare("reply.celery.pidbox", "direct", durable=False, auto_delete=False)
        channel.queue_declare(PIDBOX, durable=False, auto_delete=False)
    return broker


def publish(exchange: str, key: str = "orders") -> Callable[[Any], None]:
    """A question that follows has its answer after the refusal, if there is one."""

    def act(channel: Any) -> None:
        channel.basic_publish(amqp.Message("x"), exchange, key)
        channel.basic_qos(0, 1, False)

    return act


def consume(queue: str) -> Callable[[Any], object]:
    return lambda channel: channel.basic_consume(queue)


def purge(queue: str) -> Callable[[Any], object]:
    return lambda channel: channel.queue_purge(queue)


def delete(queue: str) -> Callable[[Any], object]:
    return lambda channel: channel.queue_delete(queue)


def make(queue: str) -> Callable[[Any], object]:
    return lambda channel: channel.queue_declare(queue, durable=True, auto_delete=False)


def bind(queue: str, exchange: str) -> Callable[[Any], object]:
    return lambda channel: channel.queue_bind(queue, exchange, "#")


Acts = dict[str, Callable[[Any], object]]
COMMAND = publish("celery.pidbox", "")
LISTEN_IN: Acts = {
    f"listens in: {queue}": act
    for queue in ("orders", "veltrix.dead", "veltrix.unroutable", PIDBOX)
    for act in (consume(queue), purge(queue))
}
DESTROY: Acts = {f"deletes {queue}": delete(queue) for queue in ("orders", "veltrix.dead", PIDBOX)}
FORBIDDEN: dict[str, Acts] = {
    "api": {
        **LISTEN_IN,
        **DESTROY,
        "declares": make("other"),
        "an event": publish("celeryev", "task.x"),
        "a command": COMMAND,
        "by the default exchange": publish(""),
        "to a foreigner's": publish("veltrix.inbound"),
        "copies": bind("orders", "veltrix.runs"),
    },
    "worker": {
        **{name: act for name, act in LISTEN_IN.items() if "veltrix." in name},
        **{name: act for name, act in DESTROY.items() if PIDBOX not in name},
        "declares": make("other"),
        "a run": publish("veltrix.runs"),
        "a command": COMMAND,
        "by the default exchange": publish(""),
        "a dead letter": publish("veltrix.dead"),
        "copies": bind(PIDBOX, "veltrix.runs"),
    },
    "flower": {
        **LISTEN_IN,
        **DESTROY,
        "declares": make("other"),
        "a run": publish("veltrix.runs"),
        "an event": publish("celeryev", "task.x"),
        "an answer": publish("reply.celery.pidbox"),
        "by the default exchange": publish(""),
    },
    "doctor": {
        **LISTEN_IN,
        **DESTROY,
        "declares": make("other"),
        "a run": publish("veltrix.runs"),
        "an event": publish("celeryev", "task.x"),
        "a command": COMMAND,
        "by the default exchange": publish(""),
    },
    "relay": {
        **{name: act for name, act in LISTEN_IN.items() if PIDBOX in name},
        **{name: act for name, act in DESTROY.items() if PIDBOX in name},
        "declares Celery's": make("celeryev.mine"),
        "an event": publish("celeryev", "task.x"),
        "a command": COMMAND,
        "by the default exchange": publish(""),
    },
}


@pytest.mark.parametrize("role", FORBIDDEN)
def test_what_a_user_does_not_need_is_refused(stage: Broker, role: str) -> None:
    url, _ = account_of(stage, ROLES[role])

    allowed = []
    for name, act in FORBIDDEN[role].items():
        with channel_of(url) as channel:
            try:
                act(channel)
                allowed.append(name)
            except amqp.AccessRefused:
                pass

    assert allowed == []


def test_nobody_is_administrator_and_management_is_for_who_needs_it(stage: Broker) -> None:
    accounts = {role: account_of(stage, user)[1] for role, user in ROLES.items()}
    policy = wanted(["orders"]).policies[0]

    def may(role: str, work: Callable[[Management], object]) -> bool:
        try:
            work(Management(accounts[role], stage.vhost))
        except ManagementRefused:
            return False
        return True

    def who(work: Callable[[Management], object]) -> set[str]:
        return {role for role in ROLES if may(role, work)}

    assert who(lambda it: it._ask("PUT", "/api/users/mine", {"password": "x", "tags": ""})) == set()
    assert who(lambda it: it._ask("PUT", "/api/vhosts/mine")) == set()
    assert who(lambda it: it.put_policy(policy)) == {"relay", "doctor", "operator"}
    assert who(lambda it: it.messages_by_queue()) == set(ROLES) - {"api", "worker"}
    path = f"/api/queues/{stage.vhost}/orders"
    assert who(lambda it: it._ask("DELETE", f"{path}/contents")) == {"relay", "operator"}
    assert may("flower", lambda it: it._ask("DELETE", path)) is False


def test_a_relay_may_declare_drain_and_renew(stage: Broker) -> None:
    url, _ = account_of(stage, ROLES["relay"])

    with closing(Declarer(url, name="relay", heartbeat_s=HEARTBEAT_S)) as declarer:
        found = declarer.ensure(["new", "orders"])
    with channel_of(url) as channel:
        for queue in ("veltrix.dead", "veltrix.unroutable"):
            consume(queue)(channel)
        publish("veltrix.runs")(channel)

    assert (found.there, found.refused) == (["new", "orders"], {})
    assert health_of(url, "new", name="tests") is Health.SERVED
    bound: list[Bound] = [("amq.topic", "eu", {}), ("veltrix.inbound", "orders", {})]
    assert renew(url, "orders", bound, name="tests") == Renewal(is_deleted=True)


def test_an_api_uses_what_is_there_and_asks_once_whether_it_may_declare(stage: Broker) -> None:
    url, _ = account_of(stage, ROLES["api"])

    with closing(Declarer(url, name="api", heartbeat_s=HEARTBEAT_S)) as declarer:
        found = declarer.ensure(["late", "orders"])
        assert found.there == ["orders"]
        assert "a relay's has" in found.refused["late"]
        with channel_of(stage.url) as channel:
            declare(channel, ["late"])

        found = declarer.ensure(["late", "orders"], is_looking=False)
        assert (found.there, found.refused) == (["late", "orders"], {})
        with channel_of(url) as channel:
            publish("veltrix.runs", "late")(channel)


def test_a_worker_may_be_kept_to_its_queues(stage: Broker) -> None:
    (worker,) = [user for user in users(["orders", "a.b"]) if user.role == "worker"]
    with channel_of(stage.url) as channel:
        declare(channel, ["flights", "axb"])
    url, _ = account_of(stage, worker)

    with channel_of(url) as channel:
        consume("orders")(channel)
        for other in ("flights", "axb"):
            with pytest.raises(amqp.AccessRefused):
                consume(other)(channel)


def test_the_pattern_of_workflow_queues_is_the_rule_of_their_names() -> None:
    names = [
        *(
            "orders",
            "a",
            "veltrix",
            "veltrix.x",
            "xveltrix.",
            "amq.gen",
            "amqp",
            "celery",
            "celeryx",
        ),
        *("eu.celery.pidbox", "celery.pidbox", "celery.pidbox.eu", "a b", "a'b", "$(x)", ".*"),
        *("orders.celery", "Veltrix.x", PIDBOX, "reply.celery.pidbox"),
    ]

    for name in names:
        reads = re.fullmatch(ROLES["worker"].read, name) is not None
        is_celerys = name in {"celery.pidbox", PIDBOX}
        assert reads == (is_queue_name(name) or is_celerys), name
        relay = re.fullmatch(ROLES["relay"].configure, name) is not None
        assert relay == (is_queue_name(name) or name.startswith("veltrix.")), name


def test_what_is_printed_for_a_shell_says_the_same_and_quotes_it() -> None:
    lines = commands("it's", ["a'b"])

    rights = {one["user"]: one for one in permissions("it's", ["a'b"])["permissions"]}
    assert rights.keys() == {user.name for user in users()}
    assert """rabbitmqctl set_permissions -p 'it'"'"'s' veltrix-api""" in "\n".join(lines)
    assert "rabbitmqctl set_user_tags veltrix-operator monitoring policymaker" in lines
    assert sum(line.startswith("rabbitmqctl add_user") for line in lines) == len(rights)


def test_answers_to_inspect_stay_below_that() -> None:
    answers = {"list": [{"args": "x" * 1_000}] * 5_000, "table": dict.fromkeys(range(5_000))}

    told = {name: _brief(partial(answers.get, name))() for name in answers}

    assert {name: len(answer) for name, answer in told.items()} == {"list": 500, "table": 500}
    assert len(json.dumps(told)) < MESSAGE_BYTES_MAX


def test_a_message_larger_than_ours_can_be_is_not_taken(stage: Broker) -> None:
    with channel_of(stage.url) as channel:
        channel.basic_publish(amqp.Message("x" * MESSAGE_BYTES_MAX), "veltrix.runs", "orders")
        channel.basic_qos(0, 1, False)
        channel.basic_publish(amqp.Message("x" * (MESSAGE_BYTES_MAX + 1)), "veltrix.runs", "orders")
        with pytest.raises(amqp.PreconditionFailed, match="larger than"):
            channel.basic_qos(0, 1, False)
