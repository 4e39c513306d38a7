"""Outcomes and schedules of a Celery application: what is not kept, and what runs twice."""

from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_command, of_setting
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("results and schedules")
_TASKS = "https://docs.celeryq.dev/en/stable/userguide/tasks.html"
_OWN = "task_ignore_result = True  # and the task writes its outcome in its own transaction"
DAY_S = 86400


def has_results(app: CeleryApp) -> bool:
    """Celery stores what becomes of some task."""
    backend = app.value("result_backend")
    if not backend or str(backend).startswith(("disabled", "None")):
        return False
    if not app.tasks:
        return not app.value("task_ignore_result")
    return any(not app.option(one, "ignore_result") for one in app.tasks)


def is_in_database(app: CeleryApp) -> bool:
    """Its results are rows."""
    return str(app.value("result_backend")).startswith(("db+", "django-db", "database", "sqla"))


@rules.rule(
    "W12",
    Severity.LOSS,
    CeleryApp,
    title="an outcome is lost with the result backend",
    why="If the backend is away when a task ends, the message is acked and nothing is stored.",
    safe=_OWN,
    source="https://github.com/celery/celery/issues/9239",
)
def outcomes_in_backend(app: CeleryApp) -> Iterator[Evidence]:
    if has_results(app):
        kind = str(app.value("result_backend")).partition(":")[0]
        yield of_setting(app, "result_backend", _OWN, f"results are kept in {kind}")


@rules.rule(
    "W13",
    Severity.STALL,
    CeleryApp,
    title="an error of the result database ends or idles a worker",
    why="The worker's main process writes results too, of unknown, revoked and expired tasks.",
    safe=_OWN,
    source="https://github.com/celery/celery/issues/5563",
)
def results_in_database(app: CeleryApp) -> Iterator[Evidence]:
    if has_results(app) and is_in_database(app):
        kind = str(app.value("result_backend")).partition(":")[0]
        yield of_setting(app, "result_backend", _OWN, f"results are kept in {kind}")


@rules.rule(
    "D03",
    Severity.LOSS,
    CeleryApp,
    title="deduplication loses the rest of a chain",
    why="Before 5.6.3 a crash between success and ack had the repeated task send nothing on.",
    safe="worker_deduplicate_successful_tasks = False  # or celery>=5.6.3",
    source="https://github.com/celery/celery/issues/9835",
)
def deduplicates(app: CeleryApp) -> Iterator[Evidence]:
    key = "worker_deduplicate_successful_tasks"
    version = app.version("celery")
    if version is not None and version < (5, 6, 3) and app.value(key):
        yield of_setting(app, key, "celery>=5.7", f"{key}, with celery {app.versions['celery']}")


@rules.rule(
    "D05",
    Severity.STALL,
    CeleryApp,
    title="waiting for tasks inside tasks is allowed",
    why="All children may wait for tasks that no child is free to run.",
    safe="result.get()  # outside of tasks only, without disable_sync_subtasks=False",
    source=f"{_TASKS}#avoid-launching-synchronous-subtasks",
)
def waits_allowed(app: CeleryApp) -> Iterator[Evidence]:
    for call in app.code.calls:
        value = call.keyword("disable_sync_subtasks")
        if value is not None and getattr(value, "value", None) is False:
            yield Evidence(
                found="disable_sync_subtasks=False",
                origin=f"{call.file}:{call.line}",
                cure="take it out; go on with a callback, or by a row in your database",
                file=call.file,
                line=call.line,
            )


@rules.rule(
    "D12",
    Severity.BLIND,
    CeleryApp,
    title="results are deleted after a day",
    why="What happened cannot be looked up later; nothing else has it.",
    safe="result_expires = 2592000  # and your own table for what counts",
    source="https://docs.celeryq.dev/en/stable/userguide/configuration.html#result-expires",
)
def results_expire(app: CeleryApp) -> Iterator[Evidence]:
    expires = app.value("result_expires")
    if has_results(app) and isinstance(expires, int | float) and 0 < expires <= DAY_S:
        yield of_setting(app, "result_expires", "result_expires = 2592000")


@rules.rule(
    "D14",
    Severity.BLIND,
    CeleryApp,
    title="a running task looks as a lost one",
    why="Without track_started a task is PENDING until it ends, as is one that nobody knows.",
    safe="task_track_started = True",
    source="https://docs.celeryq.dev/en/stable/userguide/configuration.html#task-track-started",
)
def starts_untold(app: CeleryApp) -> Iterator[Evidence]:
    if not has_results(app) or app.value("task_track_started"):
        return
    if not app.tasks or any(not app.option(one, "track_started") for one in app.tasks):
        yield of_setting(app, "task_track_started", "task_track_started = True")


@rules.rule(
    "D15",
    Severity.DUPLICATE,
    CeleryApp,
    title="more than one beat",
    why="Every beat sends every entry: two of them, or one in each worker, send it twice.",
    safe="celery -A shop beat  # once, and workers without -B",
    source="https://github.com/celery/celery/issues/4041",
)
def several_beats(app: CeleryApp) -> Iterator[Evidence]:
    by_file: dict[str, int] = {}
    for command in app.commands:
        if command.kind == "worker" and command.has("-B", "--beat"):
            yield of_command(command, "--beat in a worker", "a process of its own: celery beat")
        elif command.kind == "beat":
            by_file[command.file] = by_file.get(command.file, 0) + 1
            if by_file[command.file] > 1:
                yield of_command(command, "a second beat in this file", "keep one of them")
