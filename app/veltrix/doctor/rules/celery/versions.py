"""Versions of Celery and its libraries with faults that lose or stall work."""

from collections.abc import Iterator

from veltrix.doctor.celery_evidence import of_version
from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.celery_app import CeleryApp
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("versions")
_CELERY = "pip install 'celery>=5.7'"
_CHANGES = "https://docs.celeryq.dev/en/stable/changelog.html"


def older(app: CeleryApp, package: str, than: tuple[int, ...], cure: str) -> Iterator[Evidence]:
    """Evidence if a package is there and older."""
    if app.is_read or not app.versions:
        raise Unread(f"which versions it runs with is known when it runs ({app.trouble})")
    version = app.version(package)
    if version is not None and version < than:
        yield of_version(app, package, cure)


@rules.rule(
    "P10",
    Severity.STALL,
    CeleryApp,
    title="waits for a confirm that never comes",
    why="Before amqp 5.4.2 a channel that is opened again does not ask for confirms.",
    safe="amqp>=5.4.2",
    source="https://github.com/celery/py-amqp/pull/477",
)
def amqp_of_confirms(app: CeleryApp) -> Iterator[Evidence]:
    if app.is_on_amqp:
        yield from older(app, "amqp", (5, 4, 2), "pip install 'amqp>=5.4.2'")


@rules.rule(
    "P23",
    Severity.SLOW,
    CeleryApp,
    title="messages of chains of groups grow without bound",
    why="Before 5.7 each level of a canvas repeats the ones below it in its messages.",
    safe="celery>=5.7",
    source="https://github.com/celery/celery/issues/10171",
)
def growing_messages(app: CeleryApp) -> Iterator[Evidence]:
    if any(app.code.canvas("chord", "group", "chain")):
        yield from older(app, "celery", (5, 7), _CELERY)


@rules.rule(
    "B19",
    Severity.STALL,
    CeleryApp,
    title="RabbitMQ 4.3 refuses the queues of this version",
    why="Queues of events and remote control were transient before 5.7, and 4.3 denies those.",
    safe="celery>=5.7\nkombu>=5.7",
    source="https://github.com/celery/celery/pull/10290",
)
def refused_by_rabbitmq(app: CeleryApp) -> Iterator[Evidence]:
    if app.is_on_amqp:
        yield from older(app, "celery", (5, 7), _CELERY)
        yield from older(app, "kombu", (5, 7), "pip install 'kombu>=5.7'")


@rules.rule(
    "W17",
    Severity.STALL,
    CeleryApp,
    title="workers that stop consuming after a reconnect",
    why="Five causes of it were cured in 5.7 only; before, a worker may idle beside full queues.",
    safe="celery>=5.7",
    source="https://github.com/celery/celery/issues/9191",
)
def stops_consuming(app: CeleryApp) -> Iterator[Evidence]:
    yield from older(app, "celery", (5, 7), _CELERY)


@rules.rule(
    "W18",
    Severity.STALL,
    CeleryApp,
    title="a reconnect forgets time limits",
    why="Before 5.7 a task that runs across a reconnect has no time limit any more.",
    safe="celery>=5.7",
    source="https://github.com/celery/celery/pull/10901",
)
def limits_forgotten(app: CeleryApp) -> Iterator[Evidence]:
    yield from older(app, "celery", (5, 7), _CELERY)


@rules.rule(
    "W30",
    Severity.LOSS,
    CeleryApp,
    title="retries are dropped in RabbitMQ's delays",
    why="In 5.5 to 5.6.2 a second retry on a quorum queue is dropped as a cycle, or is stuck.",
    safe="celery>=5.7",
    source="https://github.com/celery/celery/issues/9867",
)
def retries_in_cycles(app: CeleryApp) -> Iterator[Evidence]:
    version = app.version("celery")
    if not app.is_on_amqp or version is None or version < (5, 5):
        return
    if any(one.is_quorum for one in app.declared_queues):
        yield from older(app, "celery", (5, 6, 3), _CELERY)


@rules.rule(
    "D15",
    Severity.STALL,
    CeleryApp,
    title="one bad entry ends the beat",
    why="Before 5.7 an entry that cannot be sent ended the beat, and all other entries with it.",
    safe="celery>=5.7",
    source=_CHANGES,
)
def beat_ends(app: CeleryApp) -> Iterator[Evidence]:
    if app.value("beat_schedule"):
        yield from older(app, "celery", (5, 7), _CELERY)


@rules.rule(
    "O07",
    Severity.BLIND,
    CeleryApp,
    title="events fill the memory of workers and monitors",
    why="Before 5.7 what is buffered and kept of events has no bound.",
    safe="celery>=5.7",
    source=_CHANGES,
)
def unbounded_events(app: CeleryApp) -> Iterator[Evidence]:
    if app.value("worker_send_task_events") or any(one.kind == "flower" for one in app.commands):
        yield from older(app, "celery", (5, 7), _CELERY)
