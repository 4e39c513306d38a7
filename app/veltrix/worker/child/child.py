"""A worker child: what runs in a prefork process of Celery's pool.

Nothing is opened before the first job, and all of it after the fork (loss mode D06).
"""

import signal
from collections import Counter
from collections.abc import Sequence
from functools import partial

import msgspec

from veltrix import telemetry
from veltrix.authoring.flow import enter_worker
from veltrix.bootstrap import engine_for
from veltrix.domain.dead_letters import DeadLetter
from veltrix.pipeline.execute import claim as claims
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines import endings
from veltrix.pipeline.execute.coroutines.execution import Execution
from veltrix.pipeline.execute.settle import settle
from veltrix.pipeline.execute.step_calls import Alarm, AsyncSteps
from veltrix.pipeline.relay.dead_letters import bury
from veltrix.releases.register import register, release_of
from veltrix.releases.registrable import Workflows, mistakes_of, registered_names
from veltrix.store.errors import told
from veltrix.store.transactions import transaction
from veltrix.worker.child.begin_end import run_start_hooks
from veltrix.worker.child.handing import Sorted
from veltrix.worker.child.parts import ChildParts, Inheritance, put_together
from veltrix.worker.child.release import release
from veltrix.worker.child.taking import Claimed, take
from veltrix.worker.child.usual import be_usual
from veltrix.worker.jobs import (
    Job,
    LetterJob,
    ListJob,
    ListReport,
    RegisterJob,
    ReleaseJob,
    pack,
    unpack_job,
)
from veltrix.worker.occupied import occupied_by

_PAUSES_S = (0.2, 1.0, 5.0)  # between tries of a job that met what nobody foresaw
_URGENT_TRIES = 2  # of a statement that is refused, before lists have their turn

# One per process: set in the parent before the fork; the child is made of it at its first job.
_inheritance: Inheritance | None = None
_child: "WorkerChild | None" = None
_is_leaving = False  # set by the signal, which may come before the first job


def inherit(inheritance: Inheritance) -> None:
    """Called in the parent before the pool starts.

    An engine that connects to nothing loads the database's dialect, which would take each child
    200 ms at its first job: too long for the one that goes on with a dead child's runs.
    """
    global _inheritance  # noqa: PLW0603 - what a fork hands over
    _inheritance = inheritance
    engine_for(inheritance.settings, "veltrix worker").dispose()


def prepare_child() -> None:
    """In a new child: SIGTERM is for the parent; SIGUSR2 says that the worker shuts down."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what billiard leaves as it is: see `be_usual`
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
        be_usual()
        _child = WorkerChild(put_together(_inheritance))
        if _is_leaving:
            _child.leave()
    job = unpack_job(packed)
    return _child.run_patiently(job) if isinstance(job, ListJob) else _child.run_once(job)


class WorkerChild:
    """Executes jobs, one at a time."""

    def __init__(self, parts: ChildParts) -> None:
        self._settings, self._workflows = parts.settings, parts.workflows
        self._limits, self._worker_id = parts.limits, parts.worker_id
        self._monotonic, self._wait = parts.monotonic, parts.wait
        self._sql, self._link, self._say = parts.sql, parts.link, parts.stuck.say
        self._engine, self._watch, self._place = parts.engine, parts.watch, parts.place
        self._recycling, self._handing = parts.recycling, parts.handing
        self._batch: Batch | None = None
        self._is_leaving = False
        self._begin(parts.alarm, parts.async_steps)

    def _begin(self, alarm: Alarm, async_steps: AsyncSteps) -> None:
        """This process is a worker's child from now on; what authors do at its start is done."""
        enter_worker()
        alarm.install()
        self._recycling.install()
        self._watch.start()
        run_start_hooks(alarm, async_steps, self._settings.step_timeout_s, self._monotonic)

    def leave(self) -> None:
        """Finish or hand back everything at the next step boundary."""
        self._is_leaving = True
        if self._batch is not None:
            self._batch.is_leaving = True
        self._watch.leave(self._settings.grace_s)

    def run_patiently(self, job: Job) -> bytes:
        """As `run`; an error that nobody foresaw is tried again, and raised in the end.

        The child goes on, and what it raises is nothing that a run of the job has done.
        """
        for pause_s in _PAUSES_S:
            try:
                answer = self.run(job)
            except Exception as error:  # noqa: BLE001 - tried again, and raised at last
                self._end_list()
                if isinstance(job, ListJob):  # some may be done: nothing is begun unasked now
                    job = msgspec.structs.replace(job, plain=job.run_ids, is_again=True)
                self._say("job", f"{type(job).__name__}: {told(error)}")
                telemetry.logger("worker").exception("job.tried_again", job=type(job).__name__)
            else:
                self._say("job", None)
                return answer
            self._wait(pause_s)
        try:
            return self.run(job)
        finally:
            self._say("job", None)  # if it failed, the parent tells, and others have its runs

    def run_once(self, job: Job) -> bytes:
        """As `run`; the parent tries again later, and has lists for this child meanwhile."""
        try:
            return self.run(job)
        except Exception:
            self._say("database", None)  # it is the job's trouble, which the parent tells
            raise

    def run(self, job: Job) -> bytes:
        """The packed answer. Waits for the database as long as it takes."""
        if isinstance(job, ListJob):
            return pack(self._list(job))
        if isinstance(job, ReleaseJob):
            release(self._link, job, self._monotonic, _URGENT_TRIES)
        elif isinstance(job, LetterJob):
            self._write_letters(job.letters)
        elif isinstance(job, RegisterJob):
            return self._register().encode()
        return b""

    def _register(self) -> str:
        """Register the workflows that can be; why the others cannot, or nothing.

        What is wrong with the code alone was refused before the fork; a name that clashes with one
        in the database is found here when the database could not be asked then.
        """
        names = self._link.call(registered_names, tries_max=_URGENT_TRIES)
        refused = mistakes_of(self._workflows, names)
        rest = {name: both for name, both in self._workflows.items() if name not in refused}
        self._link.call(lambda _tx: self._write(rest), tries_max=_URGENT_TRIES)
        return " ".join(refused.values())[:2_000]

    def _write(self, workflows: Workflows) -> None:
        with transaction(self._sql) as tx:
            restart_s, release = self._settings.deploy_grace_s, release_of(self._workflows)
            register(tx, workflows, restart_s=restart_s, release=release)

    def _list(self, job: ListJob) -> ListReport:
        started = self._monotonic()
        claimed, past, handed = take(job, self._handing, self._claim)
        outcomes = {run_id: "absent" for run_id, _ in job.deliveries}
        occupied: dict[str, tuple[float, int]] = {}
        mine = claimed + handed.begun
        executions = claims.executions(mine, past, self._workflows, self._limits)
        if executions:
            batch = self._batch = Batch(job.token, executions, self._place, handed.tokens)
            batch.is_leaving = self._is_leaving
            self._watch.begin(batch, handed.age_s)
            try:
                self._execute(batch)
            except Exception as error:  # noqa: BLE001 - one run's, which is looked for
                telemetry.logger("worker").exception("list.failed", token=job.token)
                self._one_by_one(batch, error)
            self._batch = None
            occupied = occupied_by(batch.executions.values())
            outcomes.update((id_, e.outcome) for id_, e in batch.executions.items())
            outcomes.update(dict.fromkeys(batch.lost, "lost"))
            if batch.lost:
                telemetry.leases_lost.inc(len(batch.lost))
                lost = sorted(batch.lost)[:20]
                telemetry.logger("worker").warning("lease.lost", token=job.token, run_ids=lost)
        if job.letters:
            self._write_unknown(job, {c.run_id for c in mine})
        took_s = self._monotonic() - started
        self._watch.end(Counter(e.claim.queue for e in executions), occupied)
        self._count(executions, took_s)
        return ListReport(outcomes, occupied)

    def _claim(self, job: ListJob, handed: Sorted) -> Claimed:
        """What of the list is not begun already, and what was done of it before."""
        asked = self._monotonic()
        claimed, past = claims.claim(
            self._link,
            job.token,
            self._worker_id,
            handed.rest,
            self._settings.hold_s,
            handed.told,
            partial(self._watch.claimed, job.token),
            is_again=job.is_again,
        )
        if claimed:
            self._handing.heard(asked, claimed[0].now.timestamp())
        return claimed, past

    def _execute(self, batch: Batch) -> None:
        self._engine.execute(batch, lambda ready: self._settle(batch, ready))

    def _settle(self, batch: Batch, ready: Sequence[Execution]) -> list[str]:
        return settle(self._link, batch.tokens, self._worker_id, ready)

    def _one_by_one(self, batch: Batch, error: Exception) -> None:
        """The engine cannot execute this list: find the run that it fails for, and fail that."""
        left, batch.interrupted = batch.interrupted, []
        for execution in left:
            fresh = self._anew(batch, execution)
            its_own: Exception | None = error
            if fresh is not None and len(left) > 1:
                its_own = self._error_of(batch, fresh)
                fresh = None if its_own is None else self._anew(batch, fresh)
            if fresh is not None and its_own is not None:
                fresh.end(endings.failure(fresh, its_own))
                batch.lost.update(self._settle(batch, [fresh]))

    def _error_of(self, batch: Batch, execution: Execution) -> Exception | None:
        """Execute this run of the batch by itself; what the engine could not do about it."""
        alone = Batch(batch.token, [execution], handed=batch.tokens)
        alone.is_leaving = batch.is_leaving
        try:
            self._execute(alone)
        except Exception as error:  # noqa: BLE001 - given to its run
            return error
        batch.lost |= alone.lost
        return None

    def _end_list(self) -> None:
        self._batch = None
        self._watch.end({}, {})

    def _count(self, executions: list[Execution], took_s: float) -> None:
        self._recycling.runs += len(executions)
        telemetry.list_runs.observe(len(executions))
        telemetry.list_seconds.observe(took_s)
        telemetry.runs_claimed.inc(len(executions))
        telemetry.runs_begun.inc(sum(e.claim.handed_by is not None for e in executions))
        settled = Counter((e.claim.workflow, e.outcome) for e in executions)
        for (workflow, outcome), runs in settled.items():
            telemetry.runs_settled.labels(workflow, outcome).inc(runs)
        now = self._monotonic()
        telemetry.outcome_seconds.observe_all(
            (e.claim.now - e.claim.accepted_at).total_seconds() + now - e.claimed
            for e in executions
            if e.is_settled and e.claim.accepted_at is not None
        )

    def _anew(self, batch: Batch, execution: Execution) -> Execution | None:
        """From its journal; None: it has its outcome."""
        found = claims.anew(self._link, [execution], self._workflows, self._limits)
        batch.executions |= {fresh.claim.run_id: fresh for fresh in found}
        return found[0] if found else None

    def _write_letters(self, letters: list[DeadLetter]) -> None:
        """Rows of these messages, however long the database cannot take them."""
        self._link.call(lambda _tx: bury(self._sql, letters))

    def _write_unknown(self, job: ListJob, claimed: set[str]) -> None:
        """Messages for a task nobody here knows: dead letters, unless they name runs of ours."""
        named = {id_: d for id_, d in job.deliveries if d in job.letters and id_ not in claimed}
        known = self._link.call(lambda tx: lease_rows.existing(tx, list(named)))
        ours = {named[run_id] for run_id in known} | {
            d for id_, d in job.deliveries if id_ in claimed
        }
        letters = [letter for d, letter in job.letters.items() if d not in ours]
        if letters:
            self._write_letters(letters)
