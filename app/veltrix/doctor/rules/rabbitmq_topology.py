"""What RabbitMQ has of ours: exchanges, queues, bindings, copies, consumers."""

from collections.abc import Iterator

from veltrix.broker.names import RUNS
from veltrix.broker.topology import Binding, Exchange, LiveQueue, LiveTopology, Queue, plan
from veltrix.doctor.facts.rabbitmq import NETS, BrokerQueue, LiveBroker
from veltrix.doctor.rule import Evidence, Rules, Severity
from veltrix.doctor.rules.rabbitmq_queues import APPLY

rules = Rules("topology of RabbitMQ")

SINGLE_NODE = "single node"
COPIES_MIN = 3
_DELAYED = "celery_delayed_delivery"


@rules.rule(
    "P12",
    Severity.STALL,
    LiveBroker,
    title="RabbitMQ lacks something that the platform publishes to",
    why="Messages for what is not there are refused or returned, and their runs wait; what foreign"
    " producers send is gone where nothing catches it.",
    safe="veltrix topology plan  # nothing to do",
    source="docs/how-to/rabbitmq.md",
)
def something_is_missing(broker: LiveBroker) -> Iterator[Evidence]:
    if "existing" in broker.parts:
        exchanges = [exchange.name for exchange in broker.wanted.exchanges]
        queues = [queue.name for queue in broker.wanted.queues]
        for name in (*exchanges, *queues):
            if name in broker.parts["existing"]:
                continue
            yield Evidence(found=f"{name!r} is not there", origin="asked by AMQP", cure=APPLY)
        return
    for change in plan(_live(broker), broker.wanted):
        if isinstance(change.subject, Exchange | Binding | Queue):
            found = str(change).partition(": refused:")[0]
            yield Evidence(
                found=f"to be done: {found}",
                origin="the virtual host as it is",
                cure=change.refused or APPLY,
            )


def _live(broker: LiveBroker) -> LiveTopology:
    return LiveTopology(
        exchanges={
            x["name"]: Exchange(x["name"], x["type"], x["arguments"])
            for x in broker.rows("exchanges")
        },
        queues={
            q.name: LiveQueue(q.name, q.type, q.messages, q.consumers)
            for q in broker.queues.values()
        },
        bindings={
            (b["source"], b["destination"], b["routing_key"]) for b in broker.rows("bindings")
        },
        policies=None,
    )


@rules.rule(
    "P02",
    Severity.STALL,
    LiveBroker,
    title="messages that no queue takes are not returned to the relay",
    why="An alternate exchange of veltrix.runs takes what is unroutable, so `mandatory` returns"
    " nothing and the relay counts messages as handed over that no worker will see.",
    safe="no alternate-exchange in a policy that matches veltrix.runs",
    source="https://www.rabbitmq.com/docs/ae",
)
def nothing_is_returned(broker: LiveBroker) -> Iterator[Evidence]:
    definitions = {row["name"]: row["definition"] for row in broker.rows("policies")}
    for row in broker.rows("exchanges"):
        policy = row.get("policy")
        other = definitions.get(policy, {}).get("alternate-exchange")
        if row["name"] == RUNS and other is not None:
            yield Evidence(
                found=f"alternate-exchange of {RUNS!r} is {other!r}",
                origin=f"policy {policy!r}",
                cure=f"rabbitmqctl clear_policy -p {broker.vhost} {policy}",
            )


def _perishable(queue: BrokerQueue) -> Iterator[Evidence]:
    marks = [
        mark
        for mark, is_so in (
            ("transient", not queue.durable),
            ("auto-delete", queue.auto_delete),
            ("exclusive", queue.exclusive),
        )
        if is_so
    ]
    if marks:
        yield Evidence(
            found=f"queue {queue.name!r} is {' and '.join(marks)}",
            origin="who declared it",
            cure=f"let its consumers empty it, `rabbitmqctl delete_queue {queue.name} --if-empty`,"
            f" then {APPLY}",
        )


@rules.rule(
    "P20",
    Severity.LOSS,
    LiveBroker,
    title="a net for messages does not outlive a restart",
    why="What reached nobody is nowhere else, and it is gone with such a queue.",
    safe="durable, neither auto-delete nor exclusive, as `veltrix topology apply` declares it",
    source="https://www.rabbitmq.com/docs/queues#durability",
)
def perishable_nets(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in broker.nets:
        yield from _perishable(queue)


@rules.rule(
    "P20",
    Severity.STALL,
    LiveBroker,
    title="a workflow queue, or an exchange, does not outlive a restart",
    why="It is gone with the node or its last consumer, and all it held comes due again later.",
    safe="durable, neither auto-delete nor exclusive, as `veltrix topology apply` declares it",
    source="https://www.rabbitmq.com/docs/queues#durability",
)
def perishable(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in broker.of_workflows:
        yield from _perishable(queue)
    ours = {exchange.name for exchange in broker.wanted.exchanges}
    for row in broker.rows("exchanges"):
        if row["name"] in ours and (not row["durable"] or row["auto_delete"]):
            yield Evidence(
                found=f"exchange {row['name']!r} is {'auto-delete' * row['auto_delete']}"
                f"{'transient' * (not row['durable'])}",
                origin="who declared it",
                cure=f"stop what publishes to it, delete it, then {APPLY}",
            )


@rules.rule(
    "P21",
    Severity.STALL,
    LiveBroker,
    title="messages wait in a queue that no worker consumes",
    why="They stay there until a worker with that queue comes.",
    safe="VELTRIX_WORKER_QUEUES of some worker names the queue, or of all is empty",
    source="https://docs.celeryq.dev/en/stable/userguide/routing.html",
)
def no_consumer(broker: LiveBroker) -> Iterator[Evidence]:
    for name, (messages, consumers) in broker.depths.items():
        if name not in NETS and messages and not consumers:
            yield Evidence(
                found=f"{messages:,} messages in queue {name!r} and no consumer",
                origin="RabbitMQ's counts",
                cure=f"start a worker that serves {name!r}: VELTRIX_WORKER_QUEUES={name} veltrix"
                " worker",
            )


@rules.rule(
    "O10",
    Severity.BLIND,
    LiveBroker,
    title="dead letters wait and nobody drains them",
    why="A relay makes rows of them that operators see; until then nobody knows of them.",
    safe="veltrix relay",
    source="docs/how-to/failures.md",
)
def undrained(broker: LiveBroker) -> Iterator[Evidence]:
    for name in NETS:
        messages, consumers = broker.depths.get(name, (0, 0))
        if messages and not consumers:
            yield Evidence(
                found=f"{messages:,} messages in {name!r} and no consumer",
                origin="RabbitMQ's counts",
                cure="veltrix relay",
            )


@rules.rule(
    "B09",
    Severity.LOSS,
    LiveBroker,
    title="a queue has few copies",
    why="A classic queue is on one node, and a quorum queue on as many as it has members: while"
    " they are away nothing of it is taken or given, and what was in it may be gone.",
    safe="three nodes, and VELTRIX_QUEUE_TYPE=quorum, with three members",
    source="https://www.rabbitmq.com/docs/quorum-queues",
)
def few_copies(broker: LiveBroker) -> Iterator[Evidence]:
    queues = [*broker.of_workflows, *broker.nets]
    nodes = {node for queue in queues for node in (*queue.members, queue.node) if node}
    wanted = {queue.name: queue.type for queue in broker.wanted.queues}
    for queue in queues:
        copies = len(queue.members) if queue.type == "quorum" else 1
        if copies >= COPIES_MIN and queue.type == "quorum":
            continue
        is_of_workflow = queue.name in broker.names
        is_single = len(nodes) == 1 and queue.type in {"quorum", wanted.get(queue.name)}
        yield Evidence(
            found=f"{queue.type} queue {queue.name!r} has {copies} member{'s' * (copies != 1)}",
            origin=f"{len(nodes)} node{'s' * (len(nodes) != 1)}",
            cure=f"rabbitmq-queues grow NODE all --vhost-pattern '^{broker.vhost}$'"
            if queue.type == "quorum"
            else "VELTRIX_QUEUE_TYPE=quorum for every process; a relay then changes it"
            if is_of_workflow
            else f"let it run empty, `rabbitmqctl delete_queue {queue.name} --if-empty`, {APPLY}",
            implied_by=SINGLE_NODE if is_single else None,
        )


@rules.rule(
    "B10",
    Severity.STALL,
    LiveBroker,
    title="one node less, and a queue takes and gives nothing",
    why="A quorum queue works while more than half of its members are online: without them"
    " publishes are not confirmed and nothing is delivered.",
    safe="all of three members online",
    source="https://www.rabbitmq.com/docs/quorum-queues#quorum-requirements",
)
def quorum_critical(broker: LiveBroker) -> Iterator[Evidence]:
    for queue in (*broker.of_workflows, *broker.nets):
        members, online = len(queue.members), len(queue.online)
        if queue.type != "quorum" or not members or online - 1 > members // 2:
            continue
        yield Evidence(
            found=f"{online} of {members} members of queue {queue.name!r} online",
            origin=f"leader {queue.leader or 'unknown'}",
            cure="start the nodes that are down; rabbitmq-queues grow NODE all",
            implied_by=SINGLE_NODE if members == 1 and online == 1 else None,
        )


@rules.rule(
    "W22",
    Severity.STALL,
    LiveBroker,
    title="a consumer takes all messages there are",
    why="Without a prefetch limit, or without acknowledgements, RabbitMQ hands a consumer all that"
    " a queue has: other workers idle, and what it held is late when it ends.",
    safe="veltrix worker",
    source="https://www.rabbitmq.com/docs/consumer-prefetch",
)
def takes_all(broker: LiveBroker) -> Iterator[Evidence]:
    for row in broker.rows("consumers"):
        queue = row["queue"]["name"]
        is_unlimited = row["prefetch_count"] == 0 or not row["ack_required"]
        if queue in broker.names and is_unlimited:
            channel = row.get("channel_details") or {}
            yield Evidence(
                found=f"a consumer of {queue!r} has prefetch {row['prefetch_count']} and"
                f" {'acknowledges' if row['ack_required'] else 'does not acknowledge'}",
                origin=f"{channel.get('user', 'unknown user')}, {channel.get('peer_host', '')}",
                cure="end that consumer: only `veltrix worker` consumes from workflow queues",
            )


@rules.rule(
    "W27",
    Severity.STALL,
    LiveBroker,
    title="delayed messages of Celery end at an exchange that leads nowhere",
    why="A message that was sent with a countdown stays in the last queue of delays when no queue"
    " is bound for it.",
    safe="start the worker of that queue before anything is sent to it with a countdown",
    source="https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html",
)
def delays_lead_nowhere(broker: LiveBroker) -> Iterator[Evidence]:
    is_there = any(row["name"] == _DELAYED for row in broker.rows("exchanges"))
    if is_there and not any(row["source"] == _DELAYED for row in broker.rows("bindings")):
        yield Evidence(
            found=f"exchange {_DELAYED!r} has no binding",
            origin=f"virtual host {broker.vhost!r}",
            cure="start the Celery worker that sends with a countdown; Veltrix itself never does",
        )


@rules.rule(
    "B14",
    Severity.BLIND,
    LiveBroker,
    title="the virtual host makes queues of a type that nobody named",
    why="What Celery declares without a type gets this one, and Celery does not see it: another"
    " prefetch, no delays.",
    safe="rabbitmqctl update_vhost_metadata VHOST --default-queue-type classic",
    source="https://www.rabbitmq.com/docs/vhosts#default-queue-type",
)
def invisible_type(broker: LiveBroker) -> Iterator[Evidence]:
    vhost = broker.part("vhost")
    type_ = vhost.get("default_queue_type") or (vhost.get("metadata") or {}).get(
        "default_queue_type"
    )
    foreign = [
        queue.name
        for queue in broker.queues.values()
        if "x-queue-type" not in queue.arguments and queue.type == type_
    ]
    if type_ not in (None, "undefined", "classic") and foreign:
        yield Evidence(
            found=f"{', '.join(map(repr, foreign[:5]))} became {type_} without asking",
            origin=f"default queue type of virtual host {broker.vhost!r}",
            cure="declare x-queue-type where the queue is declared",
        )
