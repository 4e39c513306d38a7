"""Queues as a Celery application declares them: what they drop, keep on one node or starve."""

from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_command, of_queue, of_setting
from veltrix.doctor.facts.celery_app import CeleryApp, CeleryQueue
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("queues")
_DEAD_LETTERS = (
    'queue_arguments={"x-queue-type": "quorum", "x-dead-letter-exchange": "dead",\n'
    '    "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}'
)
_QUORUM = 'task_default_queue_type = "quorum"\ntask_default_exchange_type = "topic"'
# Those that a policy can give, and can change while the queue is there.
_LIMITS = {
    "x-max-length", "x-max-length-bytes", "x-message-ttl", "x-expires", "x-delivery-limit",
}  # fmt: skip


def on_amqp(app: CeleryApp) -> list[CeleryQueue]:
    """Its queues, if they are in RabbitMQ; not those of a broadcast, which are for the moment."""
    if not app.is_on_amqp:
        return []
    return [one for one in app.declared_queues if one.exchange_type != "fanout"]


def ttl_of(queue: CeleryQueue) -> object:
    """How long a message may be in it; None for any time."""
    return queue.message_ttl or queue.arguments.get("x-message-ttl")


@rules.rule(
    "P20",
    Severity.LOSS,
    CeleryApp,
    title="a queue does not outlive its broker or its consumers",
    why="A queue that is not durable, or is deleted by itself, takes its messages with it.",
    safe='Queue("orders", durable=True)',
    source="https://www.rabbitmq.com/docs/queues#durability",
)
def transient_queue(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        bad = [
            word
            for word, is_bad in (
                ("durable=False", queue.durable is False),
                ("auto_delete=True", queue.auto_delete),
                ("exclusive=True", queue.exclusive),
                ("an exchange with durable=False", queue.exchange_durable is False),
                ("delivery_mode=1", queue.delivery_mode in {1, "transient"}),
            )
            if is_bad
        ]
        if bad:
            yield of_queue(app, queue, ", ".join(bad), f"take {', '.join(bad)} out")


@rules.rule(
    "P21",
    Severity.STALL,
    CeleryApp,
    title="a misspelt route makes a queue that no worker reads",
    why="Messages wait for ever in a queue that Celery made because a route names it.",
    safe="task_create_missing_queues = False",
    source="https://docs.celeryq.dev/en/stable/userguide/routing.html",
)
def missing_queues_are_made(app: CeleryApp) -> Iterator[Evidence]:
    if app.is_on_amqp and app.value("task_create_missing_queues"):
        cure = "task_create_missing_queues = False  # and every queue in task_queues"
        yield of_setting(app, "task_create_missing_queues", cure)


@rules.rule(
    "B01",
    Severity.LOSS,
    CeleryApp,
    title="a quorum queue drops what was delivered 20 times",
    why="After the delivery limit a message is gone, unless the queue has a dead letter exchange.",
    safe=f'Queue("orders", {_DEAD_LETTERS})',
    source="https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling",
)
def quorum_without_dead_letters(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        if queue.is_quorum and not queue.has_dead_letters:
            yield of_queue(app, queue, "declared without x-dead-letter-exchange", _DEAD_LETTERS)


@rules.rule(
    "B02",
    Severity.LOSS,
    CeleryApp,
    title="a crash counts against messages that only waited",
    why="Each crash of a worker counts as a delivery of all it had prefetched; 20 drop a message.",
    safe="worker_prefetch_multiplier = 1",
    source="https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling",
)
def prefetch_of_quorum(app: CeleryApp) -> Iterator[Evidence]:
    multiplier = app.value("worker_prefetch_multiplier")
    if any(one.is_quorum for one in on_amqp(app)) and multiplier != 1:
        yield of_setting(app, "worker_prefetch_multiplier", "worker_prefetch_multiplier = 1")


@rules.rule(
    "B03",
    Severity.LOSS,
    CeleryApp,
    title="dead letters may be lost on their way",
    why="Dead-lettering is at most once by default: nobody confirms that the other queue has it.",
    safe=f'Queue("orders", {_DEAD_LETTERS})',
    source="https://www.rabbitmq.com/docs/quorum-queues#dead-lettering",
)
def dead_letters_at_most_once(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        strategy = queue.arguments.get("x-dead-letter-strategy")
        if queue.has_dead_letters and (strategy != "at-least-once" or not queue.is_quorum):
            kind = "quorum" if queue.is_quorum else "classic"
            told = f"{kind}, with x-dead-letter-strategy {strategy!r}"
            yield of_queue(app, queue, told, _DEAD_LETTERS)


@rules.rule(
    "B05",
    Severity.LOSS,
    CeleryApp,
    title="at-least-once dead letters need reject-publish",
    why="With x-overflow drop-head RabbitMQ falls back to at most once, without a word.",
    safe=f'Queue("orders", {_DEAD_LETTERS})',
    source="https://www.rabbitmq.com/docs/quorum-queues#activating-at-least-once-dead-lettering",
)
def at_least_once_in_vain(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        overflow = queue.arguments.get("x-overflow")
        is_asked = queue.arguments.get("x-dead-letter-strategy") == "at-least-once"
        if is_asked and overflow != "reject-publish":
            told = f"at-least-once, with x-overflow {overflow!r}"
            yield of_queue(app, queue, told, '"x-overflow": "reject-publish"')


@rules.rule(
    "B06",
    Severity.LOSS,
    CeleryApp,
    title="a full queue drops its oldest messages",
    why="At its maximum a queue drops from the head, unless it refuses what comes.",
    safe='queue_arguments={"x-max-length": 100000, "x-overflow": "reject-publish"}',
    source="https://www.rabbitmq.com/docs/maxlength",
)
def full_queue_drops(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        limits = (
            queue.max_length,
            queue.max_length_bytes,
            queue.arguments.get("x-max-length"),
            queue.arguments.get("x-max-length-bytes"),
        )
        overflow = queue.arguments.get("x-overflow")
        if any(limits) and overflow != "reject-publish":
            told = f"a maximum length, with x-overflow {overflow!r}"
            yield of_queue(app, queue, told, '"x-overflow": "reject-publish"')


@rules.rule(
    "B07",
    Severity.LOSS,
    CeleryApp,
    title="a queue, or what is in it, expires",
    why="RabbitMQ deletes what waits longer, and no worker or result tells it.",
    safe='Queue("orders")  # without message_ttl and expires',
    source="https://www.rabbitmq.com/docs/ttl",
)
def queue_expires(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        if ttl_of(queue) and not queue.has_dead_letters:
            told = f"messages live {ttl_of(queue)} (message_ttl), and no dead letter exchange"
            yield of_queue(app, queue, told, "take message_ttl out")
        expires = queue.expires or queue.arguments.get("x-expires")
        if expires:
            yield of_queue(app, queue, f"it is deleted when unused ({expires})", "take expires out")


@rules.rule(
    "B08",
    Severity.LOSS,
    CeleryApp,
    title="a retry queue by time to live",
    why="RabbitMQ drops a message that comes back to a queue by dead letters alone.",
    safe="@app.task(autoretry_for=(OSError,), retry_backoff=True)",
    source="https://www.rabbitmq.com/docs/dlx#dead-letter-cycle",
)
def retry_by_ttl(app: CeleryApp) -> Iterator[Evidence]:
    cure = "keep what is due later in a table, or use the delayed retry of RabbitMQ 4.3"
    is_declared = False
    for queue in on_amqp(app):
        if ttl_of(queue) and queue.has_dead_letters:
            is_declared = True
            yield of_queue(app, queue, f"message_ttl {ttl_of(queue)} and dead letters", cure)
    if is_declared or not app.is_on_amqp:
        return
    for place in app.code.dictionaries:
        if {"x-message-ttl", "x-dead-letter-exchange"} <= place.keys:
            yield Evidence(
                found="a queue with x-message-ttl and x-dead-letter-exchange",
                origin=f"{place.file}:{place.line}",
                cure=cure,
                file=place.file,
                line=place.line,
            )


@rules.rule(
    "B09",
    Severity.LOSS,
    CeleryApp,
    title="a queue is on one node only",
    why="A classic queue has one copy, since 4.0 always: with its node or disk, its messages go.",
    safe=_QUORUM,
    source="https://www.rabbitmq.com/docs/quorum-queues",
)
def classic_queue(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        kind = queue.arguments.get("x-queue-type", "classic")
        if kind == "classic":
            yield of_queue(app, queue, "it is a classic queue", _QUORUM)


@rules.rule(
    "B13",
    Severity.STALL,
    CeleryApp,
    title="limits of a queue are in the code",
    why="A changed argument is refused (406): publishers raise, and workers end, until it is gone.",
    safe='rabbitmqctl set_policy orders "^orders$" \'{"delivery-limit": 20}\' --apply-to queues',
    source="https://www.rabbitmq.com/docs/dlx#using-optional-queue-arguments",
)
def limits_as_arguments(app: CeleryApp) -> Iterator[Evidence]:
    for queue in on_amqp(app):
        limits = sorted(_LIMITS & queue.arguments.keys())
        if limits:
            names = ", ".join(f'"{one.removeprefix("x-")}": ...' for one in limits)
            cure = (
                f"rabbitmqctl set_policy {queue.name} \"^{queue.name}$\" '{{{names}}}'"
                " --apply-to queues"
            )
            yield of_queue(app, queue, f"declared with {', '.join(limits)}", cure)


@rules.rule(
    "B15",
    Severity.SLOW,
    CeleryApp,
    title="a worker prefetches from each of its queues",
    why="Prefetch counts for each consumer: with three queues a worker holds thrice as many.",
    safe="celery -A shop worker -Q orders",
    source="https://www.rabbitmq.com/docs/consumer-prefetch",
)
def several_queues(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp:
        return
    for command in app.workers():
        queues = (command.option("-Q", "--queues") or "").split(",")
        if len(queues) > 1:
            told = f"{len(queues)} queues after -Q"
            yield of_command(command, told, "one worker for each queue: celery worker -Q orders")


@rules.rule(
    "B16",
    Severity.SLOW,
    CeleryApp,
    title="priorities starve what is less urgent",
    why="While urgent messages come others wait for ever, and prefetched ones ignore priorities.",
    safe='task_routes = {"shop.urgent.*": {"queue": "urgent"}}  # with a worker of its own',
    source="https://www.rabbitmq.com/docs/quorum-queues#priorities",
)
def priorities(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp:
        return
    cure = "a queue and a worker for each class of urgency"
    if app.value("task_queue_max_priority"):
        yield of_setting(app, "task_queue_max_priority", cure)
        return
    for queue in app.declared_queues:
        most = queue.max_priority or queue.arguments.get("x-max-priority")
        if most:
            yield of_queue(app, queue, f"priorities up to {most}", cure)


@rules.rule(
    "B19",
    Severity.STALL,
    CeleryApp,
    title="RabbitMQ 4.3 refuses queues of Celery's remote control or events",
    why="It denies queues that are neither durable nor exclusive: the worker cannot begin.",
    safe="control_queue_exclusive = True\nevent_queue_exclusive = True",
    source="https://github.com/celery/celery/pull/10290",
)
def transient_control_queues(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp:
        return
    for kind in ("control", "event"):
        key = f"{kind}_queue_exclusive"
        if key in app.config and not app.value(key) and not app.value(f"{kind}_queue_durable"):
            yield of_setting(app, key, f"{key} = True")


@rules.rule(
    "B20",
    Severity.LOSS,
    CeleryApp,
    title="a command line empties queues",
    why="A purge deletes every message that waits, and nothing says which they were.",
    safe="celery -A shop worker -Q orders  # without --purge",
    source="https://docs.celeryq.dev/en/stable/userguide/monitoring.html",
)
def purges(app: CeleryApp) -> Iterator[Evidence]:
    for command in app.commands:
        if command.kind == "purge":
            yield of_command(command, "it deletes all that waits", "take the command out")
        elif command.kind == "worker" and command.has("--purge", "--discard"):
            yield of_command(command, "--purge", "take --purge out")


@rules.rule(
    "W28",
    Severity.DUPLICATE,
    CeleryApp,
    title="a delayed message reaches two queues",
    why="Celery binds its delays to `#.key`: what is for `eu.orders` also goes to `orders`.",
    safe='Queue("orders", routing_key="orders")\nQueue("orders_eu", routing_key="orders_eu")',
    source="docs/internals/loss-modes.md, W28: celery/worker/consumer/delayed_delivery.py",
)
def overlapping_keys(app: CeleryApp) -> Iterator[Evidence]:
    queues = [one for one in on_amqp(app) if one.exchange_type == "topic"]
    if not any(one.is_quorum for one in queues):
        return
    for one in queues:
        for other in queues:
            if (one.routing_key or "").endswith(f".{other.routing_key}"):
                told = f"key {one.routing_key} ends as that of {other.name}, {other.routing_key}"
                yield of_queue(app, one, told, "keys without dots: orders_eu, orders")
