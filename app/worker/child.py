"""A worker child: what runs in a prefork process of Celery's pool.

Nothing is opened before the first job, and all of it after the fork (loss mode D06).
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import Error as PsycopgError
from sqlalchemy.exc import DBAPIError

from app import telemetry
from app.bootstrap import Sources, engine_for
from app.domain.workflows import Workflow
from app.pipeline import claim as claims
from app.pipeline.bury import bury
from app.pipeline.execute import Engine
from app.pipeline.execution import Execution
from app.pipeline.frames import Limits
from app.pipeline.hand import Hand
from app.pipeline.register import register
from app.pipeline.settle import settle
from app.pipeline.steps import Alarm, AsyncSteps
from app.pipeline.transact import Transactor
from app.settings import Settings
from app.store import journal, leases
from app.store.transactions import Link, is_away
from app.worker.jobs import (
    Job,
    LetterJob,
    ListJob,
    ListReport,
    RegisterJob,
    ReleaseJob,
    pack,
    unpack_job,
)
from app.worker.stamps import Stamps
from app.worker.watch import Watch


@dataclass(frozen=True)
class Inheritance:
    """What the parent prepared before it forked."""

    settings: Settings
    sources: Sources
    workflows: Mapping[str, tuple[Workflow, str]]
    queues: list[str]
    node: str
    stamps: Stamps


# One per process: set in the parent before the fork; the child is made of it at its first job.
_inheritance: Inheritance | None = None
_child: "Child | None" = None
_is_leaving = False  # set by the signal, which may come before the first job


def inherit(inheritance: Inheritance) -> None:
    """Called in the parent before the pool starts.

    An engine that connects to nothing loads the database's dialect, which would take each child
    200 ms at its first job: too long for the one that goes on with a dead child's runs.
    """
    global _inheritance  # noqa: PLW0603 - what a fork hands over
    _inheritance = inheritance
    engine_for(inheritance.settings, "veltrix worker").dispose()


def prepare_signals() -> None:
    """In a new child: SIGTERM is for the parent; SIGUSR2 says that the worker shuts down."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, _on_leave)


def _on_leave(_signal: int, _frame: object) -> None:
    global _is_leaving  # noqa: PLW0603 - one per process
    _is_leaving = True
    if _child is not None:
        _child.leave()


def run_job(packed: bytes) -> bytes:
    """What the pool calls, in the child's main thread."""
    global _child  # noqa: PLW0603 - one per process, made after the fork
    if _child is None:
        assert _inheritance is not None, "inherit() comes before the fork"
        _child = Child(_inheritance)
        if _is_leaving:
            _child.leave()
    return _child.run(unpack_job(packed))


class Child:
    """Executes jobs, one at a time."""

    def __init__(self, inheritance: Inheritance) -> None:
        settings, sources = inheritance.settings, inheritance.sources
        self._settings, self._workflows = settings, inheritance.workflows
        self._monotonic = sources.monotonic
        pid = os.getpid()
        self.worker_id = f"{inheritance.node}/{pid}"
        self._node = inheritance.node
        self._pause = threading.Event()
        application = f"veltrix worker {pid}"
        self._sql = engine_for(settings, application, is_hot=True)
        # Back within a part of a lease: a relay that is back sooner may rescue after one hold.
        pause_s_max = min(1.0, settings.hold_s / 4)
        self._link = Link(self._sql, self._wait, pause_s_max)
        self._limits = Limits(
            output_bytes_max=settings.output_bytes_max,
            error_chars_max=settings.error_chars_max,
            step_timeout_s=settings.step_timeout_s,
            journal_write_s=settings.journal_write_s,
            deploy_grace_s=settings.deploy_grace_s,
            deploy_backoff_s=settings.deploy_backoff_s,
            monotonic=sources.monotonic,
            jitter=sources.random,
        )
        alarm, async_steps = Alarm(sources.monotonic), AsyncSteps(sources.monotonic)
        alarm.install()
        transactor = Transactor(
            lambda: engine_for(settings, f"{application} transactions", connections_max=2),
            alarm,
            self.worker_id,
            self._rewind,
            self._wait,
            sources.monotonic,
        )
        self._engine = Engine(self._limits, alarm, async_steps, transactor)
        self._hand: Hand | None = None
        self._is_leaving = False
        slot = inheritance.stamps.take_slot(pid, sources.monotonic())
        self._watch = Watch(
            settings,
            self.worker_id,
            inheritance.node,
            lambda wait: Link(
                engine_for(settings, f"{application} watch", statement_timeout_s=5.0),
                wait,
                pause_s_max,
            ),
            async_steps,
            lambda: inheritance.stamps.stamp(slot, pid, sources.monotonic()),
            sources.monotonic,
            inheritance.queues,
        )
        self._watch.start()

    def leave(self) -> None:
        """Finish or hand back everything at the next step boundary."""
        self._is_leaving = True
        if self._hand is not None:
            self._hand.is_leaving = True
        self._watch.leave(self._settings.grace_s)

    def run(self, job: Job) -> bytes:
        """The packed answer. Waits for the database as long as it takes."""
        if isinstance(job, ListJob):
            return pack(self._list(job))
        if isinstance(job, ReleaseJob):
            released = self._link.call(
                lambda tx: leases.release(tx, job.token, job.run_ids, job.due_in_s)
            )
            if released:
                telemetry.logger("worker").warning("runs.released", run_ids=sorted(released)[:20])
        elif isinstance(job, LetterJob):
            self._write_letters(job)
        elif isinstance(job, RegisterJob):
            self._link.call(lambda tx: register(tx, self._workflows))
        return b""

    def _wait(self, seconds: float) -> None:
        self._pause.wait(seconds)

    def _list(self, job: ListJob) -> ListReport:
        started = self._monotonic()
        claimed, past = claims.claim(
            self._link, job.token, self.worker_id, job.deliveries, self._settings.hold_s
        )
        outcomes = {run_id: "absent" for run_id, _ in job.deliveries}
        occupied: dict[str, tuple[float, int]] = {}
        executions = claims.executions(claimed, past, self._workflows, self._limits)
        if executions:
            hand = self._hand = Hand(job.token, executions)
            hand.is_leaving = self._is_leaving
            self._watch.begin(hand)
            self._engine.execute(
                hand, lambda ready: settle(self._link, job.token, self.worker_id, ready)
            )
            self._hand = None
            occupied = _occupied(hand.executions.values())
            outcomes.update((id_, e.outcome) for id_, e in hand.executions.items())
            outcomes.update(dict.fromkeys(hand.lost, "lost"))
            if hand.lost:
                telemetry.leases_lost.inc(len(hand.lost))
                lost = sorted(hand.lost)[:20]
                telemetry.logger("worker").warning("lease.lost", token=job.token, run_ids=lost)
        if job.letters:
            self._write_unknown(job, {c.run_id for c in claimed})
        took_s = self._monotonic() - started
        self._watch.end(Counter(e.claim.queue for e in executions), occupied)
        self._count(executions, took_s)
        return ListReport(outcomes, occupied)

    def _count(self, executions: list[Execution], took_s: float) -> None:
        telemetry.list_runs.observe(len(executions))
        telemetry.list_seconds.observe(took_s)
        telemetry.runs_claimed.inc(len(executions))
        settled = Counter((e.claim.workflow, e.outcome) for e in executions)
        for (workflow, outcome), runs in settled.items():
            telemetry.runs_settled.labels(workflow, outcome).inc(runs)
        now = self._monotonic()
        telemetry.outcome_seconds.observe_all(
            (e.claim.now - e.claim.accepted_at).total_seconds() + now - e.claimed
            for e in executions
            if e.is_settled and e.claim.accepted_at is not None
        )

    def _rewind(self, executions: Sequence[Execution]) -> list[Execution]:
        """The same claims as new executions, as the journal knows them now."""
        for execution in executions:
            execution.close()
        old = [e.claim for e in executions]
        past = self._link.call(lambda tx: journal.past(tx, old))
        fresh = claims.executions(old, past, self._workflows, self._limits)
        for execution in fresh:
            execution.begin()
        return fresh

    def _write_letters(self, job: LetterJob) -> None:
        """Rows of these messages, however long the database is away."""
        while True:
            try:
                bury(self._sql, job.letters)
            except (DBAPIError, PsycopgError) as error:
                if not is_away(error):
                    raise
                self._wait(0.2)
            else:
                return

    def _write_unknown(self, job: ListJob, claimed: set[str]) -> None:
        """Messages for a task nobody here knows: dead letters, unless they name runs of ours."""
        named = {id_: d for id_, d in job.deliveries if d in job.letters and id_ not in claimed}
        known = self._link.call(lambda tx: leases.existing(tx, list(named)))
        ours = {named[run_id] for run_id in known} | {
            d for id_, d in job.deliveries if id_ in claimed
        }
        letters = [letter for d, letter in job.letters.items() if d not in ours]
        if letters:
            self._write_letters(LetterJob(letters))


def _occupied(executions: Iterable[Execution]) -> dict[str, tuple[float, int]]:
    """By workflow: how long its runs kept the child busy, and how many they were."""
    found: dict[str, tuple[float, int]] = {}
    for execution in executions:
        if execution.busy_s > 0:  # of the others nothing was run
            seconds, runs = found.get(execution.claim.workflow, (0.0, 0))
            found[execution.claim.workflow] = (seconds + execution.busy_s, runs + 1)
    return found
