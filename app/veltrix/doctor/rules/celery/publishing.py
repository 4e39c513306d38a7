"""What a Celery application loses on the way to RabbitMQ."""

from collections.abc import Iterator
from typing import Any

from veltrix.doctor.celery_evidence import of_setting, of_task
from veltrix.doctor.facts.celery_app import CeleryApp, transport_options
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("publishing")
CONFIRM_S_MIN = 5
_CONFIRMS = 'broker_transport_options = {"confirm_publish": True}'


def has_confirms(app: CeleryApp) -> bool:
    """It waits until RabbitMQ has a message."""
    return bool(transport_options(app).get("confirm_publish"))


def routed_options(app: CeleryApp) -> dict[str, Any]:
    """Options of publishing that its routes give, of all routes together."""
    routes = app.value("task_routes")
    found: dict[str, Any] = {}
    for one in routes if isinstance(routes, list) else [routes]:
        for options in one.values() if isinstance(one, dict) else ():
            found |= options if isinstance(options, dict) else {}
    return found


def _annotated(app: CeleryApp) -> dict[str, Any]:
    """Options that all tasks are given."""
    annotations = app.value("task_annotations")
    found = annotations.get("*") if isinstance(annotations, dict) else None
    return found if isinstance(found, dict) else {}


@rules.rule(
    "P01",
    Severity.LOSS,
    CeleryApp,
    title="messages are sent without confirms",
    why="RabbitMQ may never read a message, or drop it, and apply_async returns as if it had it.",
    safe=_CONFIRMS,
    source="https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html",
)
def sent_without_confirms(app: CeleryApp) -> Iterator[Evidence]:
    options = transport_options(app)
    if app.is_on_amqp and not has_confirms(app):
        found = f"broker_transport_options has confirm_publish {options.get('confirm_publish')!r}"
        yield of_setting(app, "broker_transport_options", _CONFIRMS, found)


@rules.rule(
    "P02",
    Severity.LOSS,
    CeleryApp,
    title="messages that no queue takes are dropped",
    why="RabbitMQ drops what is bound nowhere, without a word, unless it is sent as mandatory.",
    safe='task_annotations = {"*": {"mandatory": True}}',
    source="https://www.rabbitmq.com/docs/publishers#unroutable",
)
def sent_without_mandatory(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or routed_options(app).get("mandatory"):
        return
    cure = 'task_annotations = {"*": {"mandatory": True}}  # with confirm_publish'
    bad = [task for task in app.tasks if not app.option(task, "mandatory", "task_annotations")]
    is_bare = not app.tasks and not _annotated(app).get("mandatory")
    if is_bare or (bad and len(bad) == len(app.tasks)):
        told = f"none of {len(bad)} tasks is sent as mandatory" if bad else "nothing is mandatory"
        yield of_setting(app, "task_annotations", cure, told)
        return
    for task in bad:
        yield of_task(app, task, "it is not sent as mandatory", cure)


@rules.rule(
    "P03",
    Severity.LOSS,
    CeleryApp,
    title="what comes back unrouted is told to the next, innocent publish",
    why="Without confirms a returned message is read at the next publish, which fails instead.",
    safe='broker_transport_options = {"confirm_publish": True}\n'
    'task_annotations = {"*": {"mandatory": True}}',
    source="docs/internals/loss-modes.md, P03: proved against Celery 5.7.0",
)
def mandatory_without_confirms(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or has_confirms(app):
        return
    if routed_options(app).get("mandatory"):
        yield of_setting(app, "task_routes", _CONFIRMS, "a route has mandatory, without confirms")
    for task in app.tasks:
        if task.options.get("mandatory"):
            yield of_task(app, task, "mandatory without confirms", _CONFIRMS)


@rules.rule(
    "P04",
    Severity.LOSS,
    CeleryApp,
    title="a refused message is reported for another one",
    why="Without confirms, what is too large or goes to no exchange is lost, and the next raises.",
    safe='broker_transport_options = {"confirm_publish": True}  # and a limit of sizes before it',
    source="https://github.com/celery/kombu/issues/2336",
)
def refused_unseen(app: CeleryApp) -> Iterator[Evidence]:
    if app.is_on_amqp and not has_confirms(app):
        found = "refusals of RabbitMQ (406, 404, 403) are read only at the next publish"
        cure = f"{_CONFIRMS}\nand refuse large arguments: RabbitMQ takes 16 MiB"
        yield of_setting(app, "broker_transport_options", cure, found)


@rules.rule(
    "P06",
    Severity.STALL,
    CeleryApp,
    title="publishing waits for ever for a confirm",
    why="While RabbitMQ has an alarm it confirms nothing, and every apply_async hangs.",
    safe='task_routes = {"*": {"confirm_timeout": 30}}',
    source="https://www.rabbitmq.com/docs/alarms",
)
def confirms_without_timeout(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or not has_confirms(app):
        return
    routed = routed_options(app)
    if not (routed.get("confirm_timeout") or routed.get("timeout")):
        cure = 'task_routes = {"*": {"confirm_timeout": 30}}'
        yield of_setting(app, "task_routes", cure, "no route has a confirm_timeout")


@rules.rule(
    "P07",
    Severity.DUPLICATE,
    CeleryApp,
    title="a slow confirm sends a message several times",
    why="A publish whose confirm is late is sent again, up to max_retries times, and then raises.",
    safe='task_routes = {"*": {"confirm_timeout": 30}}',
    source="https://www.rabbitmq.com/docs/confirms#publisher-confirms-latency",
)
def short_confirm_timeout(app: CeleryApp) -> Iterator[Evidence]:
    timeout = routed_options(app).get("confirm_timeout")
    is_short = isinstance(timeout, int | float) and timeout < CONFIRM_S_MIN
    if app.is_on_amqp and has_confirms(app) and is_short and app.value("task_publish_retry"):
        found = f"confirm_timeout {timeout} s, and task_publish_retry"
        yield of_setting(app, "task_routes", '"confirm_timeout": 30', found)


@rules.rule(
    "P13",
    Severity.LOSS,
    CeleryApp,
    title="quorum queues without confirms",
    why="A quorum queue ignores what was sent on a channel that has closed since.",
    safe='task_default_queue_type = "quorum"\n' + _CONFIRMS,
    source="https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-default-queue-type",
)
def quorum_without_confirms(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or has_confirms(app):
        return
    quorum = [one.name for one in app.declared_queues if one.is_quorum]
    if quorum:
        found = f"quorum queues ({', '.join(quorum[:5])}) without confirm_publish"
        yield of_setting(app, "broker_transport_options", _CONFIRMS, found)


@rules.rule(
    "P14",
    Severity.STALL,
    CeleryApp,
    title="publishing waits for ever for a connection",
    why="When all connections of the pool are in use, apply_async waits without a limit.",
    safe="broker_pool_acquire_timeout = 5",
    source="https://github.com/celery/celery/issues/9929",
)
def pool_without_timeout(app: CeleryApp) -> Iterator[Evidence]:
    key = "broker_pool_acquire_timeout"
    if app.value("broker_pool_limit") and key in app.config and app.value(key) is None:
        yield of_setting(app, key, f"{key} = 5")


@rules.rule(
    "P17",
    Severity.LOSS,
    CeleryApp,
    title="tasks run where they are called",
    why="With task_always_eager nothing reaches a broker: a crash of the caller loses the work.",
    safe="task_always_eager = False",
    source="https://docs.celeryq.dev/en/stable/userguide/testing.html",
)
def always_eager(app: CeleryApp) -> Iterator[Evidence]:
    if app.value("task_always_eager"):
        yield of_setting(app, "task_always_eager", "task_always_eager = False")


@rules.rule(
    "P18",
    Severity.LOSS,
    CeleryApp,
    title="messages expire",
    why="The broker deletes an expired message in the queue, and no worker or result tells it.",
    safe="@app.task  # without expires; the task itself looks at a deadline",
    source="https://docs.celeryq.dev/en/stable/userguide/calling.html#expiration",
)
def tasks_expire(app: CeleryApp) -> Iterator[Evidence]:
    if routed_options(app).get("expires") is not None:
        yield of_setting(app, "task_routes", "take expires out of it", "a route has expires")
    for task in app.tasks:
        if task.options.get("expires") is not None:
            told = f"expires = {task.options['expires']!r}"
            yield of_task(app, task, told, "take expires out; give the task a deadline to look at")


@rules.rule(
    "P19",
    Severity.LOSS,
    CeleryApp,
    title="messages expire by a clock without a zone",
    why="Without UTC the producer's and the worker's clocks differ by zones and by summer time.",
    safe="enable_utc = True",
    source="docs/internals/loss-modes.md, P19: celery/worker/request.py, maybe_expire",
)
def expires_in_local_time(app: CeleryApp) -> Iterator[Evidence]:
    is_used = any(one.options.get("expires") is not None for one in app.tasks)
    is_used = is_used or any(one.keyword("expires") for one in app.code.publishes)
    if is_used and not app.value("enable_utc"):
        yield of_setting(app, "enable_utc", "enable_utc = True")


@rules.rule(
    "P20",
    Severity.LOSS,
    CeleryApp,
    title="messages are not kept on disk",
    why="A restart of RabbitMQ drops messages that are not persistent.",
    safe="task_default_delivery_mode = 2",
    source="https://www.rabbitmq.com/docs/queues#durability",
)
def transient_messages(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp:
        return
    transient = {1, "transient"}
    if app.value("task_default_delivery_mode") in transient:
        yield of_setting(app, "task_default_delivery_mode", "task_default_delivery_mode = 2")
    for task in app.tasks:
        if task.options.get("delivery_mode") in transient:
            yield of_task(app, task, "delivery_mode = 1", "delivery_mode=2, or none")
