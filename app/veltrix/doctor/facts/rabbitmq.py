"""RabbitMQ as it is now, of one virtual host: by its management API, or what AMQP can tell."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from veltrix.broker.connect import (
    BrokerAway,
    broker_url,
    close_connection,
    open_connection,
    vhost_of,
)
from veltrix.broker.management import Management, ManagementRefused, live_by_amqp
from veltrix.broker.names import DEAD, UNROUTABLE
from veltrix.broker.topology import Topology, wanted
from veltrix.doctor.examine import Unread
from veltrix.policies import limits_of, management_of
from veltrix.settings.fields import Settings

PAGE, PAGES_MAX = 500, 20
NETS = (DEAD, UNROUTABLE)
_QUEUE_COLUMNS = (
    "name,type,durable,auto_delete,exclusive,arguments,policy,operator_policy,"
    "effective_policy_definition,messages,messages_ready,messages_unacknowledged,consumers,"
    "members,online,leader,state,node"
)
_CONNECTION_COLUMNS = "name,user,timeout,protocol,state,client_properties.connection_name"
_TAGS = {
    "nodes": "monitoring",
    "permissions": "administrator",
    "users": "administrator",
    "policies": "policymaker",
    "operator_policies": "policymaker",
    "connections": "monitoring",
}
_NO_API = "AMQP alone cannot tell; set VELTRIX_MANAGEMENT_URL to https://user:password@host:15671"


class BrokerQueue(msgspec.Struct, kw_only=True):
    """A queue that is there. `effective_policy_definition`: of all policies, the operator's too."""

    name: str
    type: str = "classic"
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: dict[str, Any] = {}
    policy: str | None = None
    operator_policy: str | None = None
    effective_policy_definition: Any = None
    messages: int = 0
    messages_ready: int = 0
    messages_unacknowledged: int = 0
    consumers: int = 0
    members: list[str] = []
    online: list[str] = []
    leader: str | None = None
    node: str | None = None
    state: str | None = None

    def limit(self, key: str) -> Any:
        """What is in effect for it; a number of both policy and argument is the lower one."""
        policies = self.effective_policy_definition or {}  # RabbitMQ writes [] for none
        values = [
            value
            for value in (policies.get(key), self.arguments.get(f"x-{key}"))
            if value is not None
        ]
        if len(values) > 1 and all(isinstance(value, int) for value in values):
            return min(values)
        return values[-1] if values else None

    def limit_from(self, key: str) -> str:
        """Where that comes from, for people."""
        if f"x-{key}" in self.arguments:
            return "the queue's arguments"
        if key in (self.effective_policy_definition or {}):
            names = filter(None, (self.policy, self.operator_policy))
            return f"policy {' and '.join(map(repr, names))}"
        return f"RabbitMQ's default; policy {self.policy!r}" if self.policy else "no policy"


class LiveBroker:
    """What a broker says, part by part; a part that it refuses raises Unread when it is asked for.

    `wanted` is our topology, and `names` the workflow queues in it.
    """

    def __init__(self, target: Topology, version: str, vhost: str) -> None:
        self.wanted, self.version, self.vhost = target, version, vhost
        self.names = [queue.name for queue in target.queues if queue.name not in NETS]
        self.parts: dict[str, Any] = {}
        self.refused: dict[str, str] = {}

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """To be compared: (4, 3, 5)."""
        return tuple(int(number) for number in re.findall(r"\d+", self.version)[:3])

    @property
    def depths(self) -> dict[str, tuple[int, int]]:
        """(messages, consumers) of our queues that are there; known with AMQP alone too."""
        return dict(self.part("depths"))

    @property
    def queues(self) -> dict[str, BrokerQueue]:
        """All of the virtual host by name."""
        return dict(self.part("queues"))

    @property
    def of_workflows(self) -> list[BrokerQueue]:
        """The workflow queues that are there."""
        return [self.queues[name] for name in self.names if name in self.queues]

    @property
    def nets(self) -> list[BrokerQueue]:
        """The queues for what reached nobody, as far as they are there."""
        return [self.queues[name] for name in NETS if name in self.queues]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """exchanges, bindings, policies, operator_policies, nodes, connections, consumers, ..."""
        return list(self.part(name))

    def part(self, name: str) -> Any:
        """Raises Unread for what was refused."""
        if name in self.refused:
            raise Unread(self.refused[name])
        return self.parts[name]


def read_broker(settings: Settings, queues: Callable[[], list[str]]) -> LiveBroker:
    """All of it in one pass, with a bounded number of requests. Raises Unread.

    `queues` names the workflow queues.
    """
    if settings.broker_url is None:
        raise Unread("VELTRIX_BROKER_URL is not set; set it to amqps://user:password@host/vhost")
    target = wanted(queues(), limits_of(settings), settings.queue_type)
    management = management_of(settings)
    try:
        if management is None:
            return _by_amqp(settings, target)
        with management.one_connection():
            return _by_management(management, target, vhost_of(broker_url(settings)))
    except BrokerAway as error:
        raise Unread(
            f"RabbitMQ cannot be reached ({error}); start it, or see where it is looked for with"
            " `veltrix config`"
        ) from None


def _by_management(api: Management, target: Topology, vhost: str) -> LiveBroker:
    try:
        overview = api.get("/api/overview")
    except ManagementRefused as error:
        raise Unread(_refused("overview", error)) from None
    broker = LiveBroker(target, str(overview.get("rabbitmq_version", "0")), vhost)
    broker.parts["overview"] = overview
    _add(broker, "queues", lambda: _queues(api))
    if "queues" in broker.parts:
        there = broker.queues
        broker.parts["depths"] = {
            queue.name: (there[queue.name].messages, there[queue.name].consumers)
            for queue in target.queues
            if queue.name in there
        }
    else:
        broker.refused["depths"] = broker.refused["queues"]
    for name, path in (
        ("vhost", "/api/vhosts/{vhost}"),
        ("exchanges", "/api/exchanges/{vhost}"),
        ("bindings", "/api/bindings/{vhost}"),
        ("policies", "/api/policies/{vhost}"),
        ("operator_policies", "/api/operator-policies/{vhost}"),
        ("nodes", "/api/nodes"),
        ("consumers", "/api/consumers/{vhost}"),
        ("permissions", "/api/vhosts/{vhost}/permissions"),
    ):
        _add(broker, name, partial(api.get, path))
    _add(
        broker,
        "connections",
        lambda: _pages(api, f"/api/vhosts/{{vhost}}/connections?columns={_CONNECTION_COLUMNS}"),
    )
    if {"queues", "policies", "operator_policies"} <= broker.parts.keys():
        for queue in broker.parts["queues"].values():
            _apply(queue, broker.parts["policies"], broker.parts["operator_policies"])
    return broker


def _apply(queue: BrokerQueue, policies: list[Any], operators: list[Any]) -> None:
    """What is in effect by the policies that are there: RabbitMQ says so some seconds later."""
    ours, theirs = _highest(queue, policies), _highest(queue, operators)
    queue.policy = ours["name"] if ours else None
    queue.operator_policy = theirs["name"] if theirs else None
    definition: dict[str, Any] = dict(ours["definition"]) if ours else {}
    for key, value in (theirs["definition"] if theirs else {}).items():
        is_number = isinstance(value, int) and isinstance(definition.get(key), int)
        definition[key] = min(value, definition[key]) if is_number else value
    queue.effective_policy_definition = definition


def _highest(queue: BrokerQueue, policies: list[Any]) -> Any:
    """The one that counts; None: none matches."""
    kinds = {"all", "queues", f"{queue.type}_queues"}
    matching = [
        one
        for one in policies
        if one.get("apply-to", "all") in kinds and _matches(one["pattern"], queue.name)
    ]
    return max(matching, key=lambda one: int(one.get("priority", 0)), default=None)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


def _add(broker: LiveBroker, name: str, read: Callable[[], Any]) -> None:
    try:
        broker.parts[name] = read()
    except ManagementRefused as error:
        broker.refused[name] = _refused(name, error)


def _refused(name: str, error: ManagementRefused) -> str:
    said = f"RabbitMQ's management API refuses to tell {name} ({error.status})"
    if error.status == 404:
        return f"{said}; is the virtual host of VELTRIX_BROKER_URL there, and the address right?"
    tag = _TAGS.get(name, "management")
    return f"{said}; give the user of VELTRIX_MANAGEMENT_URL the tag `{tag}`, and its password"


def _queues(api: Management) -> dict[str, BrokerQueue]:
    rows = _pages(api, f"/api/queues/{{vhost}}?columns={_QUEUE_COLUMNS}")
    return {row["name"]: msgspec.convert(row, BrokerQueue, strict=False) for row in rows}


def _pages(api: Management, path: str) -> list[dict[str, Any]]:
    """Up to PAGES_MAX pages; of what RabbitMQ 3 has in one piece, all."""
    rows: list[dict[str, Any]] = []
    for number in range(1, PAGES_MAX + 1):
        found = api.get(f"{path}&page={number}&page_size={PAGE}")
        if isinstance(found, list):
            return found
        rows += found["items"]
        if number >= found["page_count"]:
            break
    return rows


def _by_amqp(settings: Settings, target: Topology) -> LiveBroker:
    url = broker_url(settings)
    connection = open_connection(
        url, name="veltrix doctor", heartbeat_s=settings.broker_heartbeat_s
    )
    try:
        version = str(connection.server_properties.get("version", "0"))
    finally:
        close_connection(connection)
    live = live_by_amqp(url, target)
    broker = LiveBroker(target, version, vhost_of(url))
    broker.parts["depths"] = {
        name: (queue.messages, queue.consumers) for name, queue in live.queues.items()
    }
    broker.parts["existing"] = {*live.exchanges, *live.queues}
    for name in (
        *("queues", "exchanges", "bindings", "policies", "operator_policies", "overview", "vhost"),
        *("nodes", "consumers", "permissions", "connections"),
    ):
        broker.refused[name] = _NO_API
    return broker
