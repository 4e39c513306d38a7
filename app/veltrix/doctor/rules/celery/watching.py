"""Watching a Celery application: events, Flower and health checks."""

from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_command, of_setting
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.facts.celery_commands import CeleryCommand
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("watching")
_FLOWER = "https://flower.readthedocs.io/en/latest/config.html"
EVENT_S_MIN = 60


@rules.rule(
    "O01",
    Severity.BLIND,
    CeleryApp,
    title="no events of tasks are sent",
    why="Monitors see nothing of tasks, and without task-sent nothing of those that wait.",
    safe="worker_send_task_events = True\ntask_send_sent_event = True",
    source="https://docs.celeryq.dev/en/stable/userguide/monitoring.html",
)
def events_off(app: CeleryApp) -> Iterator[Evidence]:
    workers = [one for one in app.commands if one.kind == "worker"]
    has_flag = bool(workers) and all(one.has("-E", "--task-events", "--events") for one in workers)
    if not app.value("worker_send_task_events") and not has_flag:
        yield of_setting(app, "worker_send_task_events", "worker_send_task_events = True")
    if not app.value("task_send_sent_event"):
        yield of_setting(app, "task_send_sent_event", "task_send_sent_event = True")


@rules.rule(
    "O02",
    Severity.BLIND,
    CeleryApp,
    title="a monitor that is slow for seconds misses events",
    why="Events that wait longer than event_queue_ttl are deleted, and are never sent again.",
    safe="event_queue_ttl = 300",
    source="https://docs.celeryq.dev/en/stable/userguide/configuration.html#event-queue-ttl",
)
def events_expire(app: CeleryApp) -> Iterator[Evidence]:
    is_watched = any(one.kind in {"flower", "events"} for one in app.commands)
    ttl = app.value("event_queue_ttl")
    if is_watched and app.is_on_amqp and isinstance(ttl, int | float) and ttl < EVENT_S_MIN:
        yield of_setting(app, "event_queue_ttl", "event_queue_ttl = 300")


@rules.rule(
    "O03",
    Severity.BLIND,
    CeleryApp,
    title="Flower forgets",
    why="It keeps the last 100,000 tasks in memory, and a restart forgets them all.",
    safe="celery -A shop flower --persistent --state_save_interval=60000 --max_tasks=1000000",
    source=_FLOWER,
)
def flower_forgets(app: CeleryApp) -> Iterator[Evidence]:
    for command in app.commands:
        if command.kind == "flower" and not (
            _is_on(command, "--persistent")
            and command.has("--state_save_interval", "--state-save-interval")
        ):
            cure = "--persistent=True --db=/var/lib/flower/flower --state_save_interval=60000"
            yield of_command(command, "it is not --persistent with a --state_save_interval", cure)


@rules.rule(
    "O06",
    Severity.LOSS,
    CeleryApp,
    title="who reaches Flower may stop workers and revoke tasks",
    why="Without authentication or read_only anybody who opens its page controls the workers.",
    safe="celery -A shop flower --read_only=True --basic_auth=$FLOWER_USERS",
    source=_FLOWER,
)
def flower_is_open(app: CeleryApp) -> Iterator[Evidence]:
    names = ("--basic_auth", "--basic-auth", "--auth", "--auth_provider", "--auth-provider")
    read_only = ("--read_only", "--read-only")
    for command in app.commands:
        is_open = not command.has(*names) and not _is_on(command, *read_only)
        if command.kind == "flower" and is_open:
            cure = "--read_only=True, and --basic_auth or a proxy that asks who it is"
            yield of_command(command, "neither authentication nor --read_only", cure)


@rules.rule(
    "O08",
    Severity.STALL,
    CeleryApp,
    title="a health check that kills busy workers",
    why="A busy worker answers `inspect ping` late, and one that consumes nothing at once.",
    safe="a canary task for each queue, and an alert when it is late",
    source="https://github.com/celery/celery/issues/5157",
)
def pings_as_health(app: CeleryApp) -> Iterator[Evidence]:
    for command in app.commands:
        if command.kind == "inspect" and "ping" in command.arguments:
            cure = "a canary task for each queue, and an alert when it is late"
            yield of_command(command, "ping as a health check", cure)


def _is_on(command: CeleryCommand, *names: str) -> bool:
    """An option of Flower is given, and not as false."""
    return command.has(*names) and (command.option(*names) or "").lower() not in {"false", "0"}
