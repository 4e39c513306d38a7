"""Limits of RabbitMQ's queues: what is dropped, and what is kept of it.

A message of a workflow queue names runs that PostgreSQL has: what RabbitMQ drops is late, until its
runs come due again. What is in the nets (dead letters, unroutable messages) is nowhere else.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from veltrix.doctor.facts.rabbitmq import BrokerQueue, LiveBroker
from veltrix.doctor.rule import Check, Evidence, Rules, Severity

rules = Rules("queues of RabbitMQ")

DELIVERIES_MIN = 20
CONSUMER_TIMEOUT_MS_MIN = 300_000  # a worker answers for a message within 60 s and a bit
APPLY = "veltrix topology apply"
_LATE = "its runs come due again, after VELTRIX_HOLD_S, and nobody is told why they are late"
_GONE = "it is in no other place"


def on_both(id_: str, *, title: str, why: str, safe: str, source: str, check: Any) -> None:
    """A rule of workflow queues, where it makes runs late, and of the nets, where it loses."""

    def of_workflows(broker: LiveBroker) -> Iterator[Evidence]:
        return check(broker, broker.of_workflows)  # type: ignore[no-any-return]

    def of_nets(broker: LiveBroker) -> Iterator[Evidence]:
        return check(broker, broker.nets)  # type: ignore[no-any-return]

    kinds: tuple[tuple[Severity, str, str, Check], ...] = (
        (Severity.STALL, "a workflow queue", _LATE, of_workflows),
        (Severity.LOSS, "a net for messages", _GONE, of_nets),
    )
    for severity, kind, then, checked in kinds:
        rules.rule(
            id_,
            severity,
            LiveBroker,
            title=f"{kind} {title}",
            why=f"{why}; {then}.",
            safe=safe,
            source=source,
        )(checked)


def of_limit(queue: BrokerQueue, key: str, cure: str = APPLY) -> Evidence:
    """What is in effect for the queue, and who says so."""
    value = queue.limit(key)
    return Evidence(
        found=f"{key} of queue {queue.name!r} is {'not set' if value is None else repr(value)}",
        origin=queue.limit_from(key),
        cure=cure,
    )


def without(queue: BrokerQueue, key: str) -> str:
    """The cure of a limit that must not be there."""
    if f"x-{key}" in queue.arguments:
        return (
            f"let its consumers empty it, `rabbitmqctl delete_queue {queue.name} --if-empty`,"
            f" then {APPLY}"
        )
    name = queue.operator_policy or queue.policy
    kind = "operator_policy" if queue.operator_policy else "policy"
    return f"rabbitmqctl clear_{kind} {name}  # or take {key} out of it; then {APPLY}"


def _delivery_limit(broker: LiveBroker, queues: Iterable[BrokerQueue]) -> Iterator[Evidence]:
    has_default = broker.version_numbers >= (4,)
    for queue in queues:
        limit = queue.limit("delivery-limit")
        is_low = limit is None if has_default else False
        if queue.type == "quorum" and (is_low or (limit is not None and limit < DELIVERIES_MIN)):
            yield of_limit(queue, "delivery-limit")


on_both(
    "B01",
    title="gives a message up after few deliveries",
    why="RabbitMQ takes a message out of a quorum queue at its delivery limit, 20 since 4.0, and"
    " without a dead-letter exchange drops it without a word",
    safe="policy: delivery-limit 100, dead-letter-exchange veltrix.dead",
    source="https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling",
    check=_delivery_limit,
)


@rules.rule(
    "B01",
    Severity.STALL,
    LiveBroker,
    title="a workflow queue has no dead-letter exchange",
    why="What RabbitMQ takes out of it, or a foreign consumer rejects, is dropped without a word: "
    + _LATE
    + ".",
    safe="policy: dead-letter-exchange veltrix.dead",
    source="https://www.rabbitmq.com/docs/dlx",
)
def no_dead_letters(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in broker.of_workflows:
        if queue.limit("dead-letter-exchange") is None:
            yield of_limit(queue, "dead-letter-exchange")


@rules.rule(
    "B03",
    Severity.STALL,
    LiveBroker,
    title="dead letters may be lost on their way",
    why="Dead-lettering is at most once unless it is asked for otherwise: no confirm is awaited;"
    " the evidence is gone, and " + _LATE + ".",
    safe="policy: dead-letter-strategy at-least-once, overflow reject-publish",
    source="https://www.rabbitmq.com/docs/quorum-queues#dead-lettering",
)
def dead_letters_at_most_once(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in broker.of_workflows:
        has_exchange = queue.limit("dead-letter-exchange") is not None
        # A classic queue knows no other way, and only strangers have their messages rejected.
        if (
            queue.type == "quorum"
            and has_exchange
            and queue.limit("dead-letter-strategy") != "at-least-once"
        ):
            yield of_limit(queue, "dead-letter-strategy")


@rules.rule(
    "B04",
    Severity.STALL,
    LiveBroker,
    title="dead letters have nowhere to go",
    why="A queue that dead-letters at least once keeps what it cannot hand on, tries for ever, and"
    " its log on disk grows.",
    safe="exchange veltrix.dead, bound to queue veltrix.dead",
    source="https://www.rabbitmq.com/docs/quorum-queues#dead-lettering",
)
def dead_letters_go_nowhere(broker: LiveBroker) -> Iterator[Evidence]:
    exchanges = {row["name"] for row in broker.rows("exchanges")}
    bound = {row["source"] for row in broker.rows("bindings")}
    for queue in broker.of_workflows:
        target = queue.limit("dead-letter-exchange")
        if target is None or (target in exchanges and target in bound) or target == "":
            continue
        what = "is bound to no queue" if target in exchanges else "is not there"
        yield Evidence(
            found=f"exchange {target!r}, where queue {queue.name!r} sends dead letters, {what}",
            origin=queue.limit_from("dead-letter-exchange"),
            cure=APPLY,
        )


@rules.rule(
    "B05",
    Severity.STALL,
    LiveBroker,
    title="at-least-once dead-lettering is asked for and not in effect",
    why="It needs overflow reject-publish: with drop-head RabbitMQ falls back to at-most-once"
    " without a word.",
    safe="policy: dead-letter-strategy at-least-once, overflow reject-publish",
    source="https://www.rabbitmq.com/docs/quorum-queues#dead-lettering",
)
def falls_back(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in broker.of_workflows:
        is_asked = queue.limit("dead-letter-strategy") == "at-least-once"
        if is_asked and queue.limit("overflow") != "reject-publish":
            yield of_limit(queue, "overflow")


def _overflow(_broker: LiveBroker, queues: Iterable[BrokerQueue]) -> Iterator[Evidence]:
    for queue in queues:
        bounds = [key for key in ("max-length", "max-length-bytes") if queue.limit(key) is not None]
        if bounds and queue.limit("overflow") != "reject-publish":
            found = of_limit(queue, "overflow")
            yield Evidence(
                found=f"{found.found}, and it is bounded by {' and '.join(bounds)}",
                origin=f"{found.origin}; {queue.limit_from(bounds[0])}",
                cure=found.cure,
            )


on_both(
    "B06",
    title="drops its oldest messages when it is full",
    why="With overflow drop-head a publish to a full queue succeeds, and the oldest message is"
    " dropped for it",
    safe="policy: overflow reject-publish",
    source="https://www.rabbitmq.com/docs/maxlength#overflow-behaviour",
    check=_overflow,
)


def _expiry(_broker: LiveBroker, queues: Iterable[BrokerQueue]) -> Iterator[Evidence]:
    for queue in queues:
        for key in ("message-ttl", "expires"):
            if queue.limit(key) is not None:
                yield of_limit(queue, key, without(queue, key))


on_both(
    "B07",
    title="lets its messages, or itself, expire",
    why="RabbitMQ drops a message whose time is over, and a queue that nobody used for long, with"
    " all it holds",
    safe="no message-ttl and no expires, in no policy",
    source="https://www.rabbitmq.com/docs/ttl",
    check=_expiry,
)


@rules.rule(
    "B08",
    Severity.LOSS,
    LiveBroker,
    title="dead letters go round in a circle of queues with a TTL",
    why="A message that comes back to a queue by dead-lettering alone, without a rejection in the"
    " circle, is dropped without a word.",
    safe="delays in PostgreSQL: veltrix.sleep, retries of a step",
    source="https://www.rabbitmq.com/docs/dlx#dead-letter-cycle",
)
def circles(broker: LiveBroker) -> Iterator[Evidence]:
    targets: dict[str, set[tuple[str, str]]] = {}
    for row in broker.rows("bindings"):
        if row["destination_type"] == "queue":
            targets.setdefault(row["source"], set()).add((row["routing_key"], row["destination"]))
    onward: dict[str, set[str]] = {}
    for queue in broker.queues.values():
        exchange, key = queue.limit("dead-letter-exchange"), queue.limit("dead-letter-routing-key")
        if exchange == "" and key in broker.queues:
            onward[queue.name] = {key}
        elif exchange:
            onward[queue.name] = {
                name for bound, name in targets.get(exchange, ()) if key in (None, bound)
            }
    for queue in broker.queues.values():
        if queue.limit("message-ttl") is not None and _leads_back(queue.name, onward):
            yield of_limit(queue, "message-ttl", without(queue, "message-ttl"))


def _leads_back(start: str, onward: dict[str, set[str]]) -> bool:
    seen, rest = set[str](), list(onward.get(start, ()))
    while rest:
        name = rest.pop()
        if name == start:
            return True
        if name not in seen:
            seen.add(name)
            rest += onward.get(name, ())
    return False


@rules.rule(
    "B13",
    Severity.STALL,
    LiveBroker,
    title="a queue of ours has arguments that ours do not have",
    why="A queue that is declared with other arguments than it has is refused (406), and neither"
    " workers nor relays can use it.",
    safe="x-queue-type alone; every limit in a policy",
    source="https://www.rabbitmq.com/docs/queues#property-equivalence",
)
def other_arguments(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in (*broker.of_workflows, *broker.nets):
        strange = {k: v for k, v in queue.arguments.items() if k != "x-queue-type"}
        if strange:
            yield Evidence(
                found=f"queue {queue.name!r} was declared with {strange}",
                origin="the queue's arguments",
                cure=f"let its consumers empty it, `rabbitmqctl delete_queue {queue.name}"
                f" --if-empty`, then {APPLY}",
            )


@rules.rule(
    "W15",
    Severity.DUPLICATE,
    LiveBroker,
    title="RabbitMQ takes messages back from workers that are at work",
    why="A worker may hold a message for a minute before it answers for it; at the consumer timeout"
    " RabbitMQ ends its channel, and all that it held is delivered again.",
    safe="no consumer-timeout in a policy (30 minutes)",
    source="https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout",
)
def short_consumer_timeout(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in broker.of_workflows:
        timeout_ms = queue.limit("consumer-timeout")
        if timeout_ms is not None and timeout_ms < CONSUMER_TIMEOUT_MS_MIN:
            yield of_limit(queue, "consumer-timeout", without(queue, "consumer-timeout"))
