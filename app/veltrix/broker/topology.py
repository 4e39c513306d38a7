"""Exchanges, queues, bindings and policies as data, and how a broker is made to have them.

Queues are declared with their type only, which for workflow queues is a setting; every limit is a
policy, because arguments cannot be changed later (loss mode B13). Declaring works with AMQP alone
and is done at every connect; policies need the management API or a definitions file.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import amqp
import msgspec

from veltrix.broker.names import DEAD, INBOUND, RUNS, UNROUTABLE

RUNS_POLICY, NETS_POLICY = RUNS, DEAD

# A classic queue is on one node and keeps what it holds in memory, a quorum queue on several, and
# on disk. What a workflow queue loses comes due, for the ledger has it; what the nets hold nobody
# else has, so they are quorum queues always.
QueueType = Literal["quorum", "classic"]


class Exchange(msgspec.Struct, frozen=True):
    """A durable exchange."""

    name: str
    type: str
    arguments: dict[str, Any] = {}


class Queue(msgspec.Struct, frozen=True):
    """A durable queue and its type: the only argument it is declared with."""

    name: str
    type: QueueType = "quorum"


class Binding(msgspec.Struct, frozen=True):
    """What routes from an exchange to a queue."""

    exchange: str
    queue: str
    routing_key: str


class Policy(msgspec.Struct, frozen=True):
    """Limits of all queues whose name matches `pattern`."""

    name: str
    pattern: str
    definition: dict[str, Any]
    priority: int = 10


class QueueLimits(msgspec.Struct, frozen=True):
    """Bounds of a workflow queue: see `queue_messages_max` and its neighbours in the settings."""

    delivery_limit: int = 100
    messages_max: int = 100_000
    bytes_max: int = 1024 * 1024 * 1024


class Topology(msgspec.Struct, frozen=True):
    """All of ours that a broker should have."""

    exchanges: list[Exchange]
    queues: list[Queue]
    bindings: list[Binding]
    policies: list[Policy]


class LiveQueue(msgspec.Struct, frozen=True):
    """A queue that exists. `messages` counts unacknowledged ones too where management says so."""

    name: str
    type: str | None  # None: over AMQP alone nobody can tell
    messages: int
    consumers: int


class LiveTopology(msgspec.Struct, frozen=True):
    """What a broker has. `policies` None: it could not be asked (no management API)."""

    exchanges: dict[str, Exchange]
    queues: dict[str, LiveQueue]
    bindings: set[tuple[str, str, str]] | None
    policies: dict[str, Policy] | None


class Change(msgspec.Struct, frozen=True):
    """One step from what is to what should be. `refused`: why not, and what cures it."""

    action: Literal["declare", "bind", "put"]
    subject: Exchange | Queue | Binding | Policy
    refused: str | None = None

    def __str__(self) -> str:
        kind, subject = type(self.subject).__name__.lower(), self.subject
        if isinstance(subject, Binding):
            name = f"{subject.exchange} -> {subject.queue}"
        else:
            name = subject.name
        said = f"{self.action} {kind} {name}"
        return f"{said}: refused: {self.refused}" if self.refused else said


class TopologyRefused(Exception):
    """Applying the plan would destroy messages. Nothing was changed."""

    def __init__(self, changes: Sequence[Change]) -> None:
        super().__init__("; ".join(str(change) for change in changes))
        self.changes = changes


def wanted(
    queues: Iterable[str], limits: QueueLimits | None = None, type_: QueueType = "quorum"
) -> Topology:
    """The topology for these workflow queues, which are of that type.

    `veltrix.runs` has no alternate exchange: with one, `mandatory` never returns anything
    (mechanics 11). Foreign producers publish to `veltrix.inbound`, whose unroutable messages are
    kept.
    """
    limits = limits or QueueLimits()
    names = sorted(set(queues))
    for name in names:
        check_queue_name(name)
    policies = [_nets_policy()]
    if names:
        policies.append(_runs_policy(names, limits, type_))
    return Topology(
        exchanges=[
            Exchange(RUNS, "topic"),
            Exchange(INBOUND, "topic", {"alternate-exchange": UNROUTABLE}),
            Exchange(DEAD, "fanout"),
            Exchange(UNROUTABLE, "fanout"),
        ],
        queues=[Queue(DEAD), Queue(UNROUTABLE), *(Queue(name, type_) for name in names)],
        bindings=[
            Binding(DEAD, DEAD, ""),
            Binding(UNROUTABLE, UNROUTABLE, ""),
            *(Binding(RUNS, name, name) for name in names),
        ],
        policies=policies,
    )


def check_queue_name(name: str) -> None:
    """Raise ValueError for a name that cannot be a workflow queue of its own."""
    if not 0 < len(name) <= 200 or not name.isascii() or not name.isprintable():
        raise ValueError(f"queue {name!r}: use 1 to 200 printable ASCII characters")
    if name.startswith(("veltrix.", "amq.", "celery")):
        raise ValueError(f"queue {name!r}: 'veltrix.', 'amq.' and 'celery' belong to the platform")
    if name.endswith(".celery.pidbox"):
        raise ValueError(f"queue {name!r}: '.celery.pidbox' is the end of Celery's own queues")


def is_queue_name(name: str) -> bool:
    """`check_queue_name` has nothing against it."""
    try:
        check_queue_name(name)
    except ValueError:
        return False
    return True


def _runs_policy(names: Sequence[str], limits: QueueLimits, type_: QueueType) -> Policy:
    """A policy with a limit that a queue's type does not know has no effect on the queue at all."""
    of_quorum = {
        "delivery-limit": limits.delivery_limit,
        "dead-letter-strategy": "at-least-once",
    }
    return Policy(
        RUNS_POLICY,
        f"^({'|'.join(map(re.escape, names))})$",
        {
            **(of_quorum if type_ == "quorum" else {}),
            "dead-letter-exchange": DEAD,
            "overflow": "reject-publish",
            "max-length": limits.messages_max,
            "max-length-bytes": limits.bytes_max,
        },
    )


def _nets_policy() -> Policy:
    """The last nets never drop: a delivery limit nobody reaches (4.x has 20), no dead-lettering."""
    return Policy(
        NETS_POLICY,
        f"^({re.escape(DEAD)}|{re.escape(UNROUTABLE)})$",
        {"overflow": "reject-publish", "max-length": 1_000_000, "delivery-limit": 1_000_000_000},
    )


def definitions(
    queues: Iterable[str],
    vhost: str = "/",
    limits: QueueLimits | None = None,
    type_: QueueType = "quorum",
) -> dict[str, Any]:
    """A definitions file (`load_definitions`): a node that lost everything boots with it.

    It names no users: those belong to whoever runs the node.
    """
    topology = wanted(queues, limits, type_)
    common = {"vhost": vhost, "durable": True, "auto_delete": False}
    return {
        "vhosts": [{"name": vhost}],
        "exchanges": [
            {**common, "name": x.name, "type": x.type, "internal": False, "arguments": x.arguments}
            for x in topology.exchanges
        ],
        "queues": [
            {**common, "name": q.name, "arguments": {"x-queue-type": q.type}}
            for q in topology.queues
        ],
        "bindings": [
            {
                "vhost": vhost,
                "source": b.exchange,
                "destination": b.queue,
                "destination_type": "queue",
                "routing_key": b.routing_key,
                "arguments": {},
            }
            for b in topology.bindings
        ],
        "policies": [
            {
                "vhost": vhost,
                "name": p.name,
                "pattern": p.pattern,
                "apply-to": "queues",
                "definition": p.definition,
                "priority": p.priority,
            }
            for p in topology.policies
        ],
    }


def declare(channel: Any, queues: Iterable[str], type_: QueueType = "quorum") -> set[str]:
    """Exchanges, queues and bindings for these workflow queues exist afterwards; no policies.

    But for those returned: classic queues of a node that is away, which nobody can declare. A queue
    of the other type is used as it is. `channel` is an open py-amqp or kombu channel.
    Raises amqp.PreconditionFailed if something of that name and another shape exists: `veltrix
    topology` says what.
    """
    topology = wanted(queues, None, type_)
    for exchange in topology.exchanges:
        _declare_exchange(channel, exchange)
    away: set[str] = set()
    for queue in topology.queues:
        try:
            declare_either(channel, queue)
        except amqp.NotFound:
            away.add(queue.name)
    for binding in topology.bindings:
        if binding.queue not in away:
            _bind(channel, binding)
    return away


def _declare_exchange(channel: Any, exchange: Exchange) -> None:
    channel.exchange_declare(
        exchange.name, exchange.type, durable=True, auto_delete=False, arguments=exchange.arguments
    )


def declare_queue(channel: Any, queue: Queue) -> Any:
    """It is there afterwards, as it is wanted. Raises amqp.PreconditionFailed if it is another.

    What RabbitMQ answered: its counts of messages and consumers.
    """
    return channel.queue_declare(
        queue.name, durable=True, auto_delete=False, arguments={"x-queue-type": queue.type}
    )


def declare_either(channel: Any, queue: Queue) -> tuple[QueueType, int]:
    """It is there afterwards, as it is wanted unless it was there as the other type.

    Its type and how many messages are ready. Raises amqp.PreconditionFailed if it has arguments.
    """
    found = queue
    try:
        declared = declare_queue(channel, found)
    except amqp.PreconditionFailed as error:
        if not is_of_other_type(str(error)):
            raise
        found = Queue(queue.name, "classic" if queue.type == "quorum" else "quorum")
        declared = declare_queue(channel, found)
    return found.type, declared.message_count


def is_of_other_type(refusal: str) -> bool:
    """RabbitMQ's words, when it refused to declare a queue, are about the queue's type."""
    return "'x-queue-type'" in refusal


def _bind(channel: Any, binding: Binding) -> None:
    channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)


def plan(live: LiveTopology, target: Topology) -> list[Change]:
    """What has to be done so that `live` has `target`; empty: nothing. Never names a deletion.

    A change is refused when only deleting something could bring it about: its messages, or what is
    published meanwhile, would be gone. What `live` cannot tell is declared again, which is
    harmless.
    """
    changes = [
        Change("declare", x, _exchange_refused(live.exchanges.get(x.name), x))
        for x in target.exchanges
        if live.exchanges.get(x.name) != x
    ]
    for queue in target.queues:
        found = live.queues.get(queue.name)
        if found is None or found.type not in {None, queue.type}:
            changes.append(Change("declare", queue, _queue_refused(found, queue)))
    for binding in target.bindings:
        key = (binding.exchange, binding.queue, binding.routing_key)
        if live.bindings is None or key not in live.bindings:
            changes.append(Change("bind", binding))
    there = live.policies or {}
    changes += [Change("put", p) for p in target.policies if there.get(p.name) != p]
    return changes


def _exchange_refused(found: Exchange | None, exchange: Exchange) -> str | None:
    if found is None:
        return None
    return (
        f"it exists as {found.type} with {found.arguments}, not {exchange.type} with"
        f" {exchange.arguments}; stop what publishes to it, delete it, apply again"
    )


def _queue_refused(found: LiveQueue | None, queue: Queue) -> str | None:
    if found is None:
        return None
    holds = f"{found.messages} messages" if found.messages else "no messages now"
    return (
        f"it exists as a {found.type} queue with {holds}, and a type cannot be changed; stop what"
        f" publishes to it, let its consumers empty it, delete it (`rabbitmqctl delete_queue"
        f" {queue.name} --if-empty`), apply again"
    )


def apply(
    changes: Sequence[Change], channel: Any, put_policy: Callable[[Policy], None] | None
) -> None:
    """Make the changes, all or none: raises TopologyRefused if one of them is refused.

    `channel` is an open py-amqp channel; `put_policy` None leaves policies to a definitions file.
    Exchanges come before queues and bindings, in the order of the plan.
    """
    refused = [change for change in changes if change.refused]
    if refused:
        raise TopologyRefused(refused)
    for change in changes:
        match change.subject:
            case Exchange() as exchange:
                _declare_exchange(channel, exchange)
            case Queue() as queue:
                declare_queue(channel, queue)
            case Binding() as binding:
                _bind(channel, binding)
            case Policy() as policy if put_policy is not None:
                put_policy(policy)
            case _:
                pass
