"""Messages that a worker cannot read, or has no task for, and so drops."""

from collections.abc import Iterator
from difflib import get_close_matches

from veltrix.doctor.celery_evidence import of_setting, of_task
from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("messages")
# Which Python itself has, everywhere.
_CODECS = {"gzip", "zlib", "bzip2", "bzip", "application/x-gzip", "application/x-bz2"}
_TYPES = {
    "json": "application/json",
    "pickle": "application/x-python-serialize",
    "yaml": "application/x-yaml",
    "msgpack": "application/x-msgpack",
    "auth": "application/data",
}


@rules.rule(
    "W09",
    Severity.LOSS,
    CeleryApp,
    title="a worker without the codec drops messages",
    why="A message that cannot be decompressed is acknowledged: no dead letter, no result.",
    safe='task_compression = "gzip"  # which every Python has',
    source="docs/internals/loss-modes.md, W09: proved against Celery 5.7.0",
)
def rare_codec(app: CeleryApp) -> Iterator[Evidence]:
    cure = 'task_compression = "gzip"  # or None; workers first, then who publishes'
    chosen = app.value("task_compression")
    if chosen and chosen not in _CODECS:
        yield of_setting(app, "task_compression", cure)
    for task in app.tasks:
        own = task.options.get("compression")
        if own and own != chosen and own not in _CODECS:
            yield of_task(app, task, f"compression = {own!r}", 'compression="gzip", or none')


@rules.rule(
    "W10",
    Severity.LOSS,
    CeleryApp,
    title="workers refuse what is sent",
    why="A message whose serializer is not in accept_content is rejected, and is gone.",
    safe='task_serializer = "json"\naccept_content = ["json"]',
    source="docs/internals/loss-modes.md, W10: proved against Celery 5.7.0",
)
def refused_content(app: CeleryApp) -> Iterator[Evidence]:
    accepted = {str(one) for one in app.value("accept_content") or ()}
    accepted |= {_TYPES.get(one, one) for one in accepted}
    chosen = app.value("task_serializer")
    if _TYPES.get(chosen, chosen) not in accepted:
        found = f"task_serializer = {chosen!r}, and accept_content does not have it"
        yield of_setting(app, "task_serializer", f'accept_content = ["{chosen}"]', found)
    for task in app.tasks:
        own = app.option(task, "serializer")
        if own and own != chosen and _TYPES.get(own, own) not in accepted:
            found = f"serializer = {own!r}, and accept_content does not have it"
            yield of_task(app, task, found, 'serializer="json"')


@rules.rule(
    "D16",
    Severity.LOSS,
    CeleryApp,
    title="a name that no task has",
    why="A worker discards a message for a task that it does not know.",
    safe='beat_schedule = {"nightly": {"task": "shop.tasks.report", "schedule": 86400}}',
    source="docs/internals/loss-modes.md, D16: celery/worker/consumer, UNKNOWN_TASK_ERROR",
)
def unknown_tasks(app: CeleryApp) -> Iterator[Evidence]:
    if app.is_read:
        raise Unread(f"which tasks it has is known when it runs ({app.trouble})")
    if app.trouble is not None:
        raise Unread(f"which tasks there are is not known: {app.trouble}")
    names = {one.name for one in app.tasks}
    modules = {name.rpartition(".")[0] for name in names}

    def is_ours(name: object) -> bool:
        """It is meant as one of these, and not as a task of another application."""
        if not isinstance(name, str) or name in names or set(name) & set("*?["):
            return False
        return name.rpartition(".")[0] in modules or bool(get_close_matches(name, names, 1, 0.8))

    schedule = app.value("beat_schedule")
    for entry in schedule.values() if isinstance(schedule, dict) else ():
        name = entry.get("task") if isinstance(entry, dict) else None
        if is_ours(name):
            told = f"beat_schedule has {name!r}, which is no task here"
            yield of_setting(app, "beat_schedule", "name a task that is registered", told)
    routes = app.value("task_routes")
    for pattern in routes if isinstance(routes, dict) else ():
        if is_ours(pattern):
            told = f"task_routes has {pattern!r}, which is no task here"
            yield of_setting(app, "task_routes", "name a task that is registered", told)
