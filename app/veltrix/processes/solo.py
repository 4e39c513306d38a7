"""`veltrix worker --solo`: a worker that is one process, in the foreground, for a debugger."""

import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType

from veltrix import log_lines, telemetry
from veltrix.bootstrap import real_sources
from veltrix.broker.connect import broker_url
from veltrix.doctor.starting import check_start
from veltrix.domain.events import CANARY_WORKFLOW
from veltrix.pipeline.execute.coroutines import forks
from veltrix.processes.worker import workflows_and_queues
from veltrix.settings.fields import Settings
from veltrix.settings.load import require
from veltrix.worker.child.begin_end import close_all
from veltrix.worker.child.child import WorkerChild
from veltrix.worker.child.parts import Inheritance, put_together
from veltrix.worker.jobs import Job, RegisterJob
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.places import Places
from veltrix.worker.solo import SoloConsumer
from veltrix.worker.stamps import Stamps
from veltrix.worker.troubles import Troubles

_FOR_EVER_S = 86_400.0


def run_solo(settings: Settings) -> int:
    """Work until Ctrl-C or SIGTERM, one run at a time; the exit code. Raises SettingsError.

    Steps have no time limit here. A second Ctrl-C ends the process where it stands: what was in
    hand comes due when its lease is over, as after any crash.
    """
    require(settings, "database_url", "broker_url")
    log_lines.take_over_logging(settings.log_format, settings.log_level, has_prints=False)
    check_start(settings)
    settings = settings.model_copy(update={"step_timeout_s": _FOR_EVER_S})
    workflows, queues = workflows_and_queues(settings)
    forks.watch_forks()
    sources = real_sources()
    node = settings.worker_name or "veltrix@solo"
    folder = Path(tempfile.mkdtemp(prefix="veltrix-solo-"))
    stop = Event()
    try:
        troubles = Troubles(folder)
        inheritance = Inheritance(
            settings=settings,
            sources=sources,
            workflows=workflows,
            queues=queues,
            node=node,
            stamps=Stamps(folder / "stamps"),
            places=Places(folder / "places"),
            troubles=troubles,
            mailbox=Mailbox(),
            has_step_limits=False,
        )
        child = WorkerChild(put_together(inheritance))
        hear = _hearing(child, stop)
        if refused := child.run_once(RegisterJob()):
            telemetry.logger("worker").error("workflows.refused", detail=refused.decode())
        consumer = SoloConsumer(
            broker_url(settings),
            queues,
            {*workflows, CANARY_WORKFLOW},
            partial(_run_and_hear, child, hear),
            sources.new_id,
            sources.monotonic,
            troubles,
            settings.queue_type,
        )
        log = telemetry.logger("worker")
        log.info("worker.started", node=node, workflows=sorted(workflows), queues=queues, solo=True)
        consumer.run(stop)
        close_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _run_and_hear(child: WorkerChild, hear: Callable[[], None], job: Job) -> bytes:
    try:
        return child.run_patiently(job)
    finally:
        hear()  # `continue` of pdb keeps Ctrl-C for itself


def _hearing(child: WorkerChild, stop: Event) -> Callable[[], None]:
    """Called, it hears signals, until the first of them.

    That one finishes or hands back what is in hand; the second ends at once.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        stop.set()
        child.leave()
        telemetry.logger("worker").info("worker.leaving")
        signal.signal(number, signal.SIG_DFL)

    def hear() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            if not stop.is_set():
                signal.signal(number, leave)

    hear()
    return hear
