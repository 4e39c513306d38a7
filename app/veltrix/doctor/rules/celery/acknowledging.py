"""When a worker tells the broker that a message is done with, and what that loses."""

from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_option, of_setting, of_task, tasks_with
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("acknowledging")
TASKS_PAGE = "https://docs.celeryq.dev/en/stable/userguide/tasks.html"
_CONFIGURATION = "https://docs.celeryq.dev/en/stable/userguide/configuration.html"


def is_early(app: CeleryApp) -> bool:
    """Some task, or all that may come, is acknowledged before it runs."""
    if not app.tasks:
        return not app.value("task_acks_late")
    return any(not app.option(one, "acks_late") for one in app.tasks)


def is_late(app: CeleryApp) -> bool:
    """Some task, or all that may come, is acknowledged after it ran."""
    if not app.tasks:
        return bool(app.value("task_acks_late"))
    return bool(tasks_with(app, "acks_late"))


def acks_on(app: CeleryApp, event: str) -> str | None:
    """The setting by which a failure or a timeout acknowledges; None where it does not.

    Before Celery 5.7 there is one for both.
    """
    key = f"task_acks_on_{event}"
    value = app.value(key) if key in app.config else None
    if value is not None:
        return key if value else None
    return (
        "task_acks_on_failure_or_timeout" if app.value("task_acks_on_failure_or_timeout") else None
    )


def classic_queues(app: CeleryApp) -> list[str]:
    """Names of its queues in RabbitMQ that count no deliveries."""
    return [one.name for one in app.declared_queues if not one.is_quorum]


@rules.rule(
    "W01",
    Severity.LOSS,
    CeleryApp,
    title="messages are acknowledged before the work",
    why="A crash, a kill or a deploy while a task runs loses it: the broker has forgotten it.",
    safe="task_acks_late = True  # and tasks that may run twice",
    source=TASKS_PAGE,
)
def acks_early(app: CeleryApp) -> Iterator[Evidence]:
    yield from of_option(
        app,
        "task_acks_late",
        "acks_late",
        lambda late: not late,
        "task_acks_late = True\ntask_reject_on_worker_lost = True",
    )


@rules.rule(
    "W02",
    Severity.LOSS,
    CeleryApp,
    title="a lost child process acknowledges its message",
    why="When a child is killed (memory, segfault, exit) Celery acks even late tasks as failed.",
    safe="task_acks_late = True\ntask_reject_on_worker_lost = True",
    source="https://github.com/celery/celery/issues/1628",
)
def acked_when_lost(app: CeleryApp) -> Iterator[Evidence]:
    bad = [
        one
        for one in app.tasks
        if app.option(one, "acks_late")
        and not app.option(one, "reject_on_worker_lost")
        and not _retries_when_lost(app, one.options)
    ]
    cure = "task_reject_on_worker_lost = True"
    if not app.value("task_reject_on_worker_lost"):
        is_alone = not app.tasks and app.value("task_acks_late")
        if (bad or is_alone) and not app.value("task_retry_on_worker_lost"):
            yield of_setting(app, "task_reject_on_worker_lost", cure)
        return
    for task in bad:
        yield of_task(app, task, "acks_late without reject_on_worker_lost", cure)


def _retries_when_lost(app: CeleryApp, options: dict[str, object]) -> object:
    if "retry_on_worker_lost" in options:
        return options["retry_on_worker_lost"]
    return app.value("task_retry_on_worker_lost")


@rules.rule(
    "W03",
    Severity.STALL,
    CeleryApp,
    title="a task that kills its worker comes back for ever",
    why="A classic queue counts no deliveries: what is rejected returns until somebody stops it.",
    safe='task_reject_on_worker_lost = True\ntask_default_queue_type = "quorum"',
    source="https://github.com/celery/celery/issues/3053",
)
def endless_poison(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp or not is_late(app):
        return
    is_rejecting = app.value("task_reject_on_worker_lost")
    tasks = tasks_with(app, "reject_on_worker_lost")
    queues = classic_queues(app) if is_rejecting or tasks else []
    if not queues:
        return
    cure = 'task_default_queue_type = "quorum"  # with a dead letter exchange'
    told = f"reject_on_worker_lost on classic queues ({', '.join(queues[:5])})"
    if is_rejecting:
        yield of_setting(app, "task_reject_on_worker_lost", cure, told)
    else:
        yield of_task(app, tasks[0], told, cure)


@rules.rule(
    "W04",
    Severity.LOSS,
    CeleryApp,
    title="retrying lost tasks covers a child only",
    why="It waits 180 s, gives up after 3 times and acks; a killed container never gets to it.",
    safe="task_reject_on_worker_lost = True\ntask_retry_on_worker_lost = False",
    source=f"{_CONFIGURATION}#task-retry-on-worker-lost",
)
def retries_when_lost(app: CeleryApp) -> Iterator[Evidence]:
    if "task_retry_on_worker_lost" in app.config:
        yield from of_option(
            app,
            "task_retry_on_worker_lost",
            "retry_on_worker_lost",
            bool,
            "task_retry_on_worker_lost = False\ntask_reject_on_worker_lost = True",
        )


@rules.rule(
    "W05",
    Severity.LOSS,
    CeleryApp,
    title="what fails is acknowledged, and is in the log only",
    why="After an exception the message is gone: no queue of failed work has it.",
    safe="task_acks_late = True\ntask_acks_on_failure = False  # with a dead letter exchange",
    source="https://github.com/celery/celery/pull/10128",
)
def failures_are_acked(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp:
        return
    new = "task_acks_on_failure" in app.config
    name = "task_acks_on_failure" if new else "task_acks_on_failure_or_timeout"
    key = acks_on(app, "failure")
    if key is not None:
        cure = f"task_acks_late = True\n{name} = False  # with a dead letter exchange"
        yield of_setting(app, key, cure)
        return
    bare = [one.name for one in app.declared_queues if not one.has_dead_letters]
    if bare and is_late(app):
        told = f"failed tasks are rejected, and {', '.join(bare[:5])} has no dead letter exchange"
        cure = 'queue_arguments={"x-dead-letter-exchange": "dead"}'
        yield of_setting(app, name, cure, told)


@rules.rule(
    "W06",
    Severity.STALL,
    CeleryApp,
    title="a task that is too slow comes back for ever",
    why="With acks_on_timeout off, what passes its limit is put back; a classic queue has no end.",
    safe="task_acks_on_timeout = True",
    source="docs/internals/loss-modes.md, W06: celery/worker/request.py, on_timeout",
)
def timeouts_requeue(app: CeleryApp) -> Iterator[Evidence]:
    if app.is_on_amqp and is_late(app) and acks_on(app, "timeout") is None and classic_queues(app):
        name = "task_acks_on_timeout"
        key = name if name in app.given else "task_acks_on_failure_or_timeout"
        yield of_setting(app, key, f"{name} = True")


@rules.rule(
    "W07",
    Severity.LOSS,
    CeleryApp,
    title="a retry that cannot be sent drops the task",
    why="When publishing the retry fails, Celery rejects the message without putting it back.",
    safe='queue_arguments={"x-dead-letter-exchange": "dead"}  # for every queue',
    source="docs/internals/loss-modes.md, W07: celery/app/task.py, proved against 5.7.0",
)
def retries_may_be_dropped(app: CeleryApp) -> Iterator[Evidence]:
    if not app.is_on_amqp:
        return
    retries = app.code.retries
    tasks = [one for one in app.tasks if one.options.get("autoretry_for")]
    if not retries and not tasks:
        return
    bare = [one.name for one in app.declared_queues if not one.has_dead_letters]
    if not bare:
        return
    told = f"retries, and {', '.join(bare[:5])} has no dead letter exchange"
    cure = 'queue_arguments={"x-dead-letter-exchange": "dead"}'
    if tasks:
        yield of_task(app, tasks[0], told, cure)
    else:
        first = retries[0]
        yield Evidence(
            found=told,
            origin=f"{first.file}:{first.line}",
            cure=cure,
            file=first.file,
            line=first.line,
        )


@rules.rule(
    "W14",
    Severity.DUPLICATE,
    CeleryApp,
    title="a task runs twice at once after a lost connection",
    why="The worker goes on with what it can no longer ack, and the broker gives it to another.",
    safe="worker_cancel_long_running_tasks_on_connection_loss = True",
    source="https://github.com/celery/celery/issues/4671",
)
def runs_on_without_connection(app: CeleryApp) -> Iterator[Evidence]:
    key = "worker_cancel_long_running_tasks_on_connection_loss"
    if key in app.config and is_late(app) and not app.value(key):
        yield of_setting(app, key, f"{key} = True")


@rules.rule(
    "W34",
    Severity.LOSS,
    CeleryApp,
    title="a deploy kills what was acknowledged",
    why="After the grace time the supervisor kills: tasks that were acked early are lost.",
    safe="worker_soft_shutdown_timeout = 30  # under the grace time\nREMAP_SIGTERM=SIGQUIT",
    source="https://docs.celeryq.dev/en/stable/userguide/workers.html#soft-shutdown",
)
def killed_by_deploy(app: CeleryApp) -> Iterator[Evidence]:
    key = "worker_soft_shutdown_timeout"
    if key in app.config and is_early(app) and not app.value(key):
        yield of_setting(app, key, f"{key} = 30\nREMAP_SIGTERM=SIGQUIT  # in its environment")


@rules.rule(
    "W35",
    Severity.LOSS,
    CeleryApp,
    title="a cold shutdown says RETRY of what nobody retries",
    why="Tasks acked early are cancelled and stored as RETRY, though nothing was sent again.",
    safe="task_acks_late = True",
    source="docs/internals/loss-modes.md, W35: celery/worker/request.py, _announce_cancelled",
)
def cancelled_as_retry(app: CeleryApp) -> Iterator[Evidence]:
    version = app.version("celery")
    if version is not None and version >= (5, 5) and is_early(app):
        told = f"celery {app.versions['celery']}, and tasks that are acked early"
        yield of_setting(app, "task_acks_late", "task_acks_late = True", told)
