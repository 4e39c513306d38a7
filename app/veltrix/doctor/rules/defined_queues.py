"""Queues, exchanges and policies of RabbitMQ's definitions files."""

from collections.abc import Iterator

from veltrix.broker.topology import RUNS_POLICY
from veltrix.doctor.deployment_evidence import of_definition, of_files
from veltrix.doctor.facts.deployment.definitions import (
    BrokerDefinitions,
    DefinedExchange,
    DefinedQueue,
)
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("definitions of RabbitMQ")

NEVER = 1_000_000  # deliveries that no message has
_DLX = "https://www.rabbitmq.com/docs/dlx"
_QUORUM = "https://www.rabbitmq.com/docs/quorum-queues"
_EXCHANGE, _STRATEGY = "dead-letter-exchange", "dead-letter-strategy"


def _lasting(files: BrokerDefinitions) -> Iterator[DefinedQueue]:
    """Without streams, which are cut from their head by design."""
    return (one for one in files.queues if not one.is_passing and one.type != "stream")


def _of_limit(queue: DefinedQueue, key: str, cure: str) -> Evidence:
    value = queue.limit(key)
    told = "is not set" if value is None else f"is {value!r}"
    keys = (key, _EXCHANGE, _STRATEGY) if value is None else (key,)
    return of_definition(queue.place_of(*keys), f"{key} of {queue.told} {told}", cure)


@rules.rule(
    "P20",
    Severity.LOSS,
    BrokerDefinitions,
    title="a queue or an exchange does not outlast a restart or its last consumer",
    why="What is not durable goes with the node, and what is deleted by itself goes with its last"
    " consumer, with the messages in it.",
    safe='"durable": true, "auto_delete": false',
    source="https://www.rabbitmq.com/docs/queues#durability",
)
@of_files
def does_not_last(files: BrokerDefinitions) -> Iterator[Evidence]:
    lasting: list[tuple[str, DefinedQueue | DefinedExchange]] = [
        (one.told, one) for one in _lasting(files) if not one.is_policy
    ]
    lasting += [
        (f"exchange {one.name!r}", one)
        for one in files.exchanges
        if not one.name.startswith("amq.") and not one.name.endswith((".pidbox", "celeryev"))
    ]
    for told, one in lasting:
        if not one.is_durable:
            yield of_definition(one.place, f"{told} is not durable", '"durable": true')
        if one.is_auto_delete:
            yield of_definition(one.place, f"{told} is auto_delete", '"auto_delete": false')


@rules.rule(
    "B09",
    Severity.LOSS,
    BrokerDefinitions,
    title="a queue is on one node only",
    why="A classic queue has a single copy, and policies that mirrored it are ignored since 4.0.",
    safe='"arguments": {"x-queue-type": "quorum"}',
    source=_QUORUM,
)
@of_files
def single_copy(files: BrokerDefinitions) -> Iterator[Evidence]:
    for queue in _lasting(files):
        # Those of Veltrix's workflows only name rows: what one loses comes due.
        is_ledgered = queue.policy is not None and queue.policy.name == RUNS_POLICY
        if queue.type == "classic" and not queue.is_policy and not is_ledgered:
            cure = 'a queue of another name with "x-queue-type": "quorum"'
            yield of_definition(queue.place, f"{queue.told} is classic", cure)
    for policy in files.policies:
        if "ha-mode" in policy.definition:
            found = f"policy {policy.name!r} has ha-mode, which nothing reads"
            yield of_definition(policy.place, found, "quorum queues, and no ha-mode")


@rules.rule(
    "B01",
    Severity.LOSS,
    BrokerDefinitions,
    title="a queue drops a message after some deliveries",
    why="At its delivery limit, 20 unless it is set, a quorum queue gives a message to its"
    " dead-letter exchange, and without one drops it without a word.",
    safe='policy: "dead-letter-exchange": "dead", "delivery-limit": 100',
    source=f"{_QUORUM}#poison-message-handling",
)
@of_files
def drops_at_its_limit(files: BrokerDefinitions) -> Iterator[Evidence]:
    for queue in _lasting(files):
        limit = queue.limit("delivery-limit")
        is_endless = isinstance(limit, int) and (limit < 0 or limit >= NEVER)
        if queue.type == "quorum" and queue.limit(_EXCHANGE) is None and not is_endless:
            yield _of_limit(queue, _EXCHANGE, '"dead-letter-exchange" in a policy')


@rules.rule(
    "B03",
    Severity.LOSS,
    BrokerDefinitions,
    title="dead letters may be lost on their way",
    why="Dead-lettering is at most once unless it is asked for otherwise: no confirm is awaited.",
    safe='policy: "dead-letter-strategy": "at-least-once", "overflow": "reject-publish"',
    source=f"{_QUORUM}#dead-lettering",
)
@of_files
def dead_letters_at_most_once(files: BrokerDefinitions) -> Iterator[Evidence]:
    for queue in _lasting(files):
        is_sent = queue.type == "quorum" and queue.limit(_EXCHANGE) is not None
        if is_sent and queue.limit(_STRATEGY) != "at-least-once":
            cure = '"dead-letter-strategy": "at-least-once", "overflow": "reject-publish"'
            yield _of_limit(queue, _STRATEGY, cure)


@rules.rule(
    "B04",
    Severity.LOSS,
    BrokerDefinitions,
    title="dead letters have nowhere to go",
    why="Of an exchange that is not there, or that no queue is bound to, dead letters are dropped,"
    " or kept and tried for ever where at-least-once is asked for.",
    safe="an exchange, a queue, and a binding between them",
    source=_DLX,
)
@of_files
def dead_letters_go_nowhere(files: BrokerDefinitions) -> Iterator[Evidence]:
    if not files.exchanges:
        return  # they are defined elsewhere
    there = {(one.vhost, one.name): one for one in files.exchanges}
    for queue in _lasting(files):
        target = queue.limit(_EXCHANGE)
        if not isinstance(target, str) or target == "" or target.startswith("amq."):
            continue
        exchange = there.get((queue.vhost, target))
        if exchange is not None and exchange.is_bound:
            continue
        what = "is not there" if exchange is None else "is bound to nothing"
        yield of_definition(
            queue.place_of(_EXCHANGE),
            f"exchange {target!r}, where {queue.told} sends dead letters, {what}",
            "define the exchange, a queue, and a binding between them",
        )


@rules.rule(
    "B05",
    Severity.LOSS,
    BrokerDefinitions,
    title="at-least-once dead-lettering is asked for and not in effect",
    why="It needs overflow reject-publish: with drop-head RabbitMQ falls back to at-most-once"
    " without a word.",
    safe='policy: "dead-letter-strategy": "at-least-once", "overflow": "reject-publish"',
    source=f"{_QUORUM}#dead-lettering",
)
@of_files
def falls_back(files: BrokerDefinitions) -> Iterator[Evidence]:
    for queue in _lasting(files):
        is_asked = queue.limit(_STRATEGY) == "at-least-once"
        if is_asked and queue.limit("overflow") != "reject-publish":
            yield _of_limit(queue, "overflow", '"overflow": "reject-publish"')


@rules.rule(
    "B06",
    Severity.LOSS,
    BrokerDefinitions,
    title="a full queue drops its oldest messages",
    why="With overflow drop-head a publish to a full queue succeeds, and the oldest message goes"
    " for it.",
    safe='policy: "max-length": 100000, "overflow": "reject-publish"',
    source="https://www.rabbitmq.com/docs/maxlength#overflow-behaviour",
)
@of_files
def drops_its_oldest(files: BrokerDefinitions) -> Iterator[Evidence]:
    for queue in _lasting(files):
        bounds = [key for key in ("max-length", "max-length-bytes") if queue.limit(key) is not None]
        overflow = queue.limit("overflow")
        if bounds and overflow not in {"reject-publish", "reject-publish-dlx"}:
            told = "no overflow" if overflow is None else f"overflow {overflow!r}"
            found = f"{' and '.join(bounds)} of {queue.told} with {told}"
            yield of_definition(queue.place_of(*bounds), found, '"overflow": "reject-publish"')


@rules.rule(
    "B07",
    Severity.LOSS,
    BrokerDefinitions,
    title="messages of a queue, or the queue itself, expire",
    why="A message whose time is over is dropped where there is no dead-letter exchange, and a"
    " queue that nobody used for long goes with all it holds.",
    safe="no message-ttl without a dead-letter exchange, and no expires",
    source="https://www.rabbitmq.com/docs/ttl",
)
@of_files
def expires(files: BrokerDefinitions) -> Iterator[Evidence]:
    for queue in _lasting(files):
        if queue.limit("message-ttl") is not None and queue.limit(_EXCHANGE) is None:
            yield _of_limit(queue, "message-ttl", "take message-ttl out of it")
        if queue.limit("expires") is not None:
            yield _of_limit(queue, "expires", "take expires out of it")
