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
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from celery import Celery, bootsteps, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from sqlalchemy.exc import SQLAlchemyError

from veltrix import log_lines, telemetry
from veltrix.authoring.workflows import Workflow
from veltrix.bootstrap import collect_rarely, engine_for, real_sources, say_powers, workflows_of
from veltrix.broker.celery_app import make_celery
from veltrix.doctor.starting import check_start
from veltrix.leaving import end_within
from veltrix.releases.registrable import Workflows, mistakes_of, registered_names
from veltrix.settings.fields import Settings
from veltrix.settings.links import link_warnings, open_warnings
from veltrix.settings.load import SettingsError, require
from veltrix.store.transactions import open_autocommit
from veltrix.worker.child.begin_end import close_all
from veltrix.worker.child.child import inherit, prepare_child
from veltrix.worker.child.parts import Inheritance
from veltrix.worker.child.recycling import end_processes
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.parent import lost_connections
from veltrix.worker.parent.celery_events import CeleryEvents
from veltrix.worker.parent.consuming import end_all
from veltrix.worker.parent.declaring import ensure_topology, say_unserved, unserved
from veltrix.worker.parent.outsiders import only_inspecting, refuse_compressed
from veltrix.worker.parent.parts import Parent
from veltrix.worker.places import Places
from veltrix.worker.sidecar import start_sidecar
from veltrix.worker.stamps import Stamps
from veltrix.worker.troubles import Troubles

_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_FOLDER_PREFIX, _LOCK = "veltrix-worker-", "lock"


def run_worker(settings: Settings, folder: Path) -> int:
    """Work until SIGTERM or Ctrl-C; the exit code.

    `folder` is a private folder for signs of life and metrics. Raises SettingsError.
    """
    require(settings, "database_url", "broker_url")
    _tame_celery(settings)
    check_start(settings)
    workflows, queues = workflows_and_queues(settings)
    sources = real_sources()
    node = settings.worker_name or f"veltrix@{socket.gethostname()}"
    stamps, troubles = Stamps(folder / "stamps"), Troubles(folder / "troubles")
    places, mailbox = Places(folder / "places"), Mailbox()
    celery = make_celery(settings, workflows, queues, name=node)
    parent = celery.veltrix_parent = Parent(
        settings, queues, stamps, places, troubles, mailbox, sources.new_id, sources.monotonic
    )
    celery.steps["consumer"].add(DeclareTopology)
    celery.events.dispatcher_cls = CeleryEvents
    inherit(
        Inheritance(
            settings=settings,
            sources=sources,
            workflows=workflows,
            queues=queues,
            node=node,
            stamps=stamps,
            places=places,
            troubles=troubles,
            mailbox=mailbox,
        )
    )
    signals.worker_process_init.connect(_on_child, weak=False)
    signals.worker_process_shutdown.connect(_on_child_end, weak=False)
    sidecar = start_sidecar(settings, folder, os.getpid())
    worker = _worker_of(celery, settings.grace_s)(
        hostname=node,
        pool="prefork",
        concurrency=settings.worker_children,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )

    def on_ready(**_: Any) -> None:
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
        sidecar.kill()
        sidecar.wait()
    return int(worker.exitcode or parent.exit_code)


def _tame_celery(settings: Settings) -> None:
    """Celery logs and warns as we do, answers only what inspects it, and unpacks nothing."""
    warnings.filterwarnings("ignore", category=SecurityWarning)  # JSON only: root unpickles nothing
    # What Celery says at each lost connection, of a setting that ours sets.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    log_lines.take_over_logging(settings.log_format, settings.log_level)
    lost_connections.foresee()
    signals.setup_logging.connect(_no_other_logging, weak=False)
    for warning in (
        *link_warnings(settings),
        *open_warnings("HEALTH_HOST", settings.health_host, is_tls=False),
    ):
        telemetry.logger("worker").warning("link.open", detail=warning)
    only_inspecting()
    refuse_compressed()


def workflows_and_queues(settings: Settings) -> tuple[dict[str, tuple[Workflow, str]], list[str]]:
    """The workflows with their versions, and the queues to be served. Raises SettingsError."""
    workflows = workflows_of(settings)
    queues = _queues(settings, {workflow.queue for workflow, _ in workflows.values()})
    _refuse_unregistrable(settings, workflows)
    return workflows, queues


def _refuse_unregistrable(settings: Settings, workflows: Workflows) -> None:
    """Before the first fork, when there may still be a connection. Raises SettingsError.

    Where the database cannot be asked now, the child that registers finds what clashes.
    """
    engine = engine_for(settings, "veltrix worker start", statement_timeout_s=5.0)
    names: set[str] = set()
    try:
        with open_autocommit(engine) as tx:
            names = registered_names(tx)
        say_powers(settings, engine)
    except SQLAlchemyError as error:
        telemetry.logger("worker").warning("names.unchecked", error=str(error)[:300])
    finally:
        engine.dispose()
    mistakes = mistakes_of(workflows, names)
    if mistakes:
        raise SettingsError(list(mistakes.values()))


class DeclareTopology(bootsteps.StartStopStep):
    """Exchanges, queues and bindings, at every new connection (mechanics 23)."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, c: Any) -> None:
        """Declare what this worker consumes from."""
        parent = c.app.veltrix_parent
        with c.connection_for_write() as connection:
            channel = connection.default_channel
            c.missing_queues = ensure_topology(
                channel, parent.queues, parent.troubles, parent.settings.queue_type
            )
        if c.must_ask:
            parent.unserved = unserved(parent.broker_url, {*parent.queues} - c.missing_queues)
            if parent.unserved:
                log = telemetry.logger("worker")
                log.warning("queues.unserved", queues=sorted(parent.unserved))
        say_unserved(parent.troubles, parent.unserved)


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


def _no_other_logging(**_: Any) -> None:
    """Celery sets no log up where somebody listens to this signal."""


def _on_child(**_: Any) -> None:
    prepare_child()


def _on_child_end(**_: Any) -> None:
    close_all()
    end_processes()


def _worker_of(celery: Celery, grace_s: float) -> Any:
    """Celery's worker. Signals are ours from its start on, connected or not; its end is limited."""

    class Worker(celery.Worker):
        def install_platform_tweaks(self, worker: Any) -> None:
            super().install_platform_tweaks(worker)
            _take_sigterm(worker.consumer)

        def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
            """Whatever it ends of: an error nobody caught leads here, too."""
            end_within(grace_s, partial(end_all, self.pool), code=exitcode or 0)
            super().stop(in_sighandler, exitcode)

    return Worker


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
        # Kept for whom it becomes, who hears them at first (`veltrix worker`): one could be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
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
