"""`veltrix worker`: a Celery worker whose consumer hands lists to prefork children."""

import os
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import FrameType
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import SecurityWarning

from app import telemetry
from app.bootstrap import collect_rarely, real_sources, workflows_of
from app.broker.celery_app import make_celery
from app.broker.topology import declare
from app.settings import Settings
from app.settings_load import SettingsError, require
from app.worker.celery_events import CeleryEvents
from app.worker.child import Inheritance, inherit, prepare_signals
from app.worker.consumer import Parent
from app.worker.sidecar import start_sidecar
from app.worker.stamps import Stamps

_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_FOLDER_PREFIX, _LOCK = "veltrix-worker-", "lock"


def run_worker(settings: Settings, folder: Path) -> int:
    """Work until SIGTERM or Ctrl-C; the exit code.

    `folder` is a private folder for signs of life and metrics. Raises SettingsError.
    """
    require(settings, "database_url", "broker_url")
    warnings.filterwarnings("ignore", category=SecurityWarning)  # JSON only: root unpickles nothing
    workflows = workflows_of(settings)
    queues = _queues(settings, {workflow.queue for workflow, _ in workflows.values()})
    sources = real_sources()
    node = settings.worker_name or f"veltrix@{socket.gethostname()}"
    stamps = Stamps(folder / "stamps")
    celery = make_celery(settings, workflows, queues)
    celery.veltrix_parent = Parent(settings, queues, stamps, sources.new_id, sources.monotonic)
    celery.steps["consumer"].add(DeclareTopology)
    celery.events.dispatcher_cls = CeleryEvents
    inherit(Inheritance(settings, sources, workflows, queues, node, stamps))
    signals.worker_process_init.connect(_on_child, weak=False)
    sidecar = start_sidecar(settings, folder, os.getpid())
    worker = celery.Worker(
        hostname=node,
        pool="prefork",
        concurrency=settings.worker_children,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )

    def on_ready(sender: Any, **_: Any) -> None:
        _take_sigterm(sender)
        telemetry.logger("worker").info(
            "worker.started",
            node=node,
            workflows=sorted(workflows),
            queues=queues,
            children=settings.worker_children,
        )

    signals.worker_ready.connect(on_ready, weak=False)
    collect_rarely()  # before the children are forked: they inherit it
    try:
        worker.start()
    finally:
        sidecar.terminate()
        sidecar.wait()
    return int(worker.exitcode or 0)


class DeclareTopology(bootsteps.StartStopStep):
    """Exchanges, queues and bindings, at every new connection (mechanics 23)."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, c: Any) -> None:
        """Declare what this worker consumes from."""
        with c.connection_for_write() as connection:
            declare(connection.default_channel, c.app.veltrix_parent.queues)


def _queues(settings: Settings, of_workflows: set[str]) -> list[str]:
    wanted = [queue for queue in settings.worker_queues.split(",") if queue]
    unknown = sorted(set(wanted) - of_workflows)
    if unknown:
        there_are = ", ".join(sorted(of_workflows)) or "none"
        mistake = (
            f"VELTRIX_WORKER_QUEUES names {', '.join(unknown)}, which no workflow of"
            f" VELTRIX_WORKFLOWS uses; there are {there_are}"
        )
        raise SettingsError([mistake])
    if not of_workflows:
        mistake = (
            f"there is no workflow in {settings.workflows!r};"
            " set VELTRIX_WORKFLOWS to modules with @workflow functions"
        )
        raise SettingsError([mistake])
    return wanted or sorted(of_workflows)


def _on_child(**_: Any) -> None:
    prepare_signals()


def _take_sigterm(consumer: Any) -> None:
    """Celery's warm shutdown waits without limit: first the children settle or hand back."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        consumer.leave()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def start(load: Callable[[], Settings]) -> int:
    """`veltrix worker`: the exit code. Raises SettingsError.

    prometheus-client decides when it is imported whether processes share their metrics: the first
    time this replaces the process by itself, with a folder for them in the environment.
    """
    settings = load()
    shared = os.environ.get(_METRICS_VARIABLE)
    if shared is None or not Path(shared).parent.name.startswith(_FOLDER_PREFIX):
        remove_abandoned()
        metrics = make_folder() / "metrics"
        environment = {**os.environ, _METRICS_VARIABLE: str(metrics)}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
    folder = Path(shared).parent
    try:
        return run_worker(settings, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder() -> Path:
    """A private folder, locked until this process and its children have ended."""
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    (folder / "metrics").mkdir()
    lock = os.open(folder / "new", os.O_CREAT | os.O_RDONLY, 0o600)
    os.set_inheritable(lock, True)  # it is still held after the process replaced itself
    flock(lock, LOCK_EX)
    (folder / "new").rename(folder / _LOCK)  # never seen without its lock
    return folder


def remove_abandoned() -> None:
    """Remove what workers that were killed left behind: nobody holds the lock in their folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError), (folder / _LOCK).open() as lock:
            flock(lock, LOCK_EX | LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
