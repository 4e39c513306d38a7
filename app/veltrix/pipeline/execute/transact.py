"""Transactional steps: their effect and the record of it are one commit.

In a round they run last, behind the locks of their runs (mechanics 2 and 8). Many run together in
one transaction (`together`); where one of them does not simply succeed, all run again, each in a
savepoint of a shared transaction (`savepoints`), and so do those like it for a while (`doubts`). At
the first wait for a lock or deadlock, and when its commit is refused, that is rolled back as well
and each gets a transaction of its own. So the code may run more than once; its effect is committed
once. What a step leaves in its session is gone before the next one, in the same transaction too,
and before our own statements.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, ResourceClosedError

from veltrix.authoring.encoding import Unstorable
from veltrix.domain.backoff import Backoff
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.execute.attempts import extra_of, next_attempt_s
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines import endings, moves
from veltrix.pipeline.execute.coroutines.execution import Execution, PendingStep
from veltrix.pipeline.execute.settle import mark_written, write
from veltrix.pipeline.execute.step_calls import NOT_BEGUN, Alarm
from veltrix.pipeline.execute.transactional.doubts import Doubts
from veltrix.pipeline.execute.transactional.guard import guard_connections, guarded
from veltrix.pipeline.execute.transactional.savepoints import (
    AttemptLost,
    Contended,
    NeedsItsOwn,
    Savepoints,
)
from veltrix.pipeline.execute.transactional.step_gate import StepGate
from veltrix.pipeline.execute.transactional.together import NotSimple, Together
from veltrix.store.errors import Answer, answer_of, is_bad_value, told
from veltrix.store.transactions import transaction_on

TOGETHER_MAX = 250  # runs in one transaction without savepoints
SHARED_MAX = 50  # and with them: 64 savepoints fill PostgreSQL's subtransaction cache
_PAUSE_S, _PAUSE_S_MAX = 0.05, 1.0  # until what could not begin is tried again
Rewind = Callable[[Sequence[Execution]], list[Execution]]


class InDoubt(Exception):
    """The workflow has advanced with the step's output; its commit failed or is unknown.

    `is_ours`: a statement of ours met the error, before the commit.
    """

    def __init__(self, error: Exception, *, is_ours: bool) -> None:
        super().__init__(str(error))
        self.error, self.is_ours = error, is_ours


class Transactor:
    """Runs transactional steps on an engine of its own (not AUTOCOMMIT), opened at the first.

    `hold_s` is how long a lease holds. `say` is told what keeps a step from beginning, and None
    when nothing does any more.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        *,
        alarm: Alarm,
        worker_id: str,
        rewind: Rewind,
        wait: Callable[[float], object],
        monotonic: Callable[[], float],
        hold_s: float,
        say: Callable[[str | None], object] = lambda _trouble: None,
    ) -> None:
        self._make_engine, self._alarm, self._worker_id = make_engine, alarm, worker_id
        self._rewind, self._wait, self._monotonic = rewind, wait, monotonic
        self._hold_s, self._say = hold_s, say
        self._engine: Engine | None = None
        self._gate, self._doubts, self._loners = StepGate(alarm), Doubts(), Doubts()
        self._token = ""
        self._separate: set[str] = set()  # runs of this token that share no transaction any more

    def __call__(self, batch: Batch, steps: list[PendingStep]) -> list[Execution]:
        """Run and commit these steps, at most one per run at a time; the executions to go on with.

        Waits for the database as long as it takes; a run whose commit is in doubt is executed again
        from its journal. Each execution of a step by itself is an attempt, whatever its connection
        did; that of a shared transaction that was given up is not.
        """
        if batch.token != self._token:
            self._token, self._separate = batch.token, set()
        going_on: list[Execution] = []
        while steps:
            first_of: dict[Execution, PendingStep] = {}
            for step in steps:
                first_of.setdefault(step.execution, step)
            chunk = [s for s in first_of.values() if not s.execution.is_over]
            simple = [s for s in chunk if self._may_go_together(s)][:TOGETHER_MAX]
            if len(simple) > 1:
                found, done = self._together(batch, simple)
            else:
                done = chunk[:SHARED_MAX]
                self._doubts.pass_by(done)
                found = self._with_savepoints(batch, done)
            going_on += found
            taken = set(done)
            steps = [s for s in steps if not (s in taken or s.execution.is_over)]
        return list(dict.fromkeys(e for e in going_on if not e.is_over))

    def _may_go_together(self, step: PendingStep) -> bool:
        return step.execution.claim.run_id not in self._separate and self._doubts.is_trusted(step)

    def _together(
        self, batch: Batch, steps: list[PendingStep]
    ) -> tuple[list[Execution], list[PendingStep]]:
        """The executions to go on with, and those of the steps that are done: some, at least."""
        form = Together(batch, self._alarm, self._gate, self._monotonic)
        done = form.tried
        try:
            found = self._once(batch, steps, form)
        except InDoubt:
            self._doubts.doubt(done)
            self._separate |= {s.execution.claim.run_id for s in done}
            return self._rewound(batch, done), done
        except NotSimple as failed:
            self._doubts.doubt(done if failed.step is None else [failed.step])
            if failed.step is not None and failed.needs_its_own:
                self._loners.doubt([failed.step])
            if failed.step is None:  # it was refused at the end, as it would be with savepoints
                self._separate |= {s.execution.claim.run_id for s in done}
        except DBAPIError:
            done = steps  # nothing of them has run: how long to wait shows when each goes alone
        else:
            self._doubts.trust(done)
            return found, done
        found = []
        for first in range(0, len(done), SHARED_MAX):
            found += self._with_savepoints(batch, done[first : first + SHARED_MAX])
        return found, done

    def _with_savepoints(self, batch: Batch, steps: Sequence[PendingStep]) -> list[Execution]:
        steps = [s for s in steps if not s.execution.is_over]
        alone = [s for s in steps if not self._may_share(s)]
        shared = [s for s in steps if self._may_share(s)]
        self._loners.pass_by(alone)
        going_on: list[Execution] = []
        if len(shared) > 1:
            try:
                going_on += self._once(batch, shared, self._savepoints(batch, is_shared=True))
                self._loners.trust(shared)
                shared = []
            except InDoubt:
                self._separate |= {s.execution.claim.run_id for s in shared}
                going_on += self._rewound(batch, shared)
                shared = []
            except AttemptLost as lost:
                self._separate.add(lost.step.execution.claim.run_id)
                self._end_attempt(lost.step, lost.error)
                going_on.append(lost.step.execution)
                shared.remove(lost.step)
            except NeedsItsOwn as found:
                self._loners.doubt([found.step])
            except (Contended, DBAPIError):
                pass  # whose it is, and how long to wait, shows when each goes alone
        for step in shared + alone:
            going_on += self._alone(batch, step)
        return going_on

    def _may_share(self, step: PendingStep) -> bool:
        return step.execution.claim.run_id not in self._separate and self._loners.is_trusted(step)

    def _savepoints(self, batch: Batch, *, is_shared: bool) -> Savepoints:
        return Savepoints(batch, self._alarm, self._gate, self._monotonic, is_shared=is_shared)

    def _alone(self, batch: Batch, step: PendingStep) -> list[Execution]:
        backoff: Backoff | None = None  # as most steps need none
        while True:
            try:
                found = self._once(batch, [step], self._savepoints(batch, is_shared=False))
            except InDoubt as doubt:
                found = self._rewound(batch, [step])
                for execution in found:
                    self._resolve(execution, step, doubt)
            except AttemptLost as lost:
                self._end_attempt(step, lost.error)
                found = [step.execution]
            except DBAPIError as error:  # nothing of the step has run
                backoff = backoff or Backoff(_PAUSE_S, _PAUSE_S_MAX)
                self._say(told(error))
                self._wait(backoff.extend(self._monotonic()))
                continue
            if backoff is not None:
                self._say(None)
            return found

    def _end_attempt(
        self, step: PendingStep, error: BaseException, *, is_ours: bool = False
    ) -> None:
        """The step's function has run, in vain: whether and when it runs again."""
        is_there = answer_of(error) is not Answer.CANNOT_SERVE or self._is_there()
        delay_s = next_attempt_s(step, error, extra_of(error, is_ours=is_ours, is_there=is_there))
        moves.end_attempt(step, error, delay_s, is_next=delay_s == 0.0)

    def _is_there(self) -> bool:
        assert self._engine is not None
        try:
            self._engine.connect().close()
        except DBAPIError:
            return False
        return True

    def _rewound(self, batch: Batch, steps: Sequence[PendingStep]) -> list[Execution]:
        """Nobody knows whether the commit took place: the journal does. Begin again from it."""
        fresh = self._rewind([step.execution for step in steps])
        for execution in fresh:
            batch.executions[execution.claim.run_id] = execution
        return fresh

    def _resolve(self, execution: Execution, was: PendingStep, doubt: InDoubt) -> None:
        """What the journal now shows: if the step is not in it, its attempt has failed."""
        step = next((s for s in execution.pending if s.position == was.position), None)
        if step is None:
            return
        step.attempt, step.tries, step.started = was.attempt, was.tries, was.started
        if doubt.is_ours and is_bad_value(doubt.error):
            execution.end(endings.unstorable(execution, doubt.error, step))
            return
        execution.pending.remove(step)
        execution.in_flight += 1
        execution.has_begun = True
        self._end_attempt(step, doubt.error, is_ours=doubt.is_ours)

    def _once(
        self, batch: Batch, steps: Sequence[PendingStep], form: Savepoints | Together
    ) -> list[Execution]:
        """As `_commit`. What took long and came to nothing leaves no lease that is over."""
        began = self._monotonic()
        try:
            return self._commit(batch, steps, form)
        except Exception:
            if self._is_long(began):
                self._renew(batch, [s.execution.claim.run_id for s in steps])
            raise

    def _is_long(self, began: float) -> bool:
        """The watch could not renew for so long what our lock kept from others, too."""
        return self._monotonic() - began > self._hold_s / 4

    def _renew(self, batch: Batch, run_ids: list[str]) -> None:
        assert self._engine is not None
        with (
            suppress(DBAPIError),  # it is away from the relay as well
            self._engine.connect() as tx,
            transaction_on(tx),
        ):
            lease_rows.renew(tx, batch.tokens, run_ids, self._hold_s)

    def _commit(
        self, batch: Batch, steps: Sequence[PendingStep], form: Savepoints | Together
    ) -> list[Execution]:
        """Run and commit.

        Raises what the form raises and errors of the database before anything has advanced,
        InDoubt after it.
        """
        if self._engine is None:
            self._engine = self._make_engine()
            guard_connections(self._engine)
        executions: list[Execution] = []
        written: dict[str, bool] = {}
        is_ours, began = True, self._monotonic()
        with self._engine.connect() as tx:
            guarded(tx).gate = self._gate
            self._gate.open(form.sharing)
            try:
                with transaction_on(tx):
                    held = lease_rows.lock_held(
                        tx, batch.tokens, [s.execution.claim.run_id for s in steps]
                    )
                    mine = [s for s in steps if s.execution.claim.run_id in held]
                    ended = form.run(tx, mine)
                    _lose(batch, [s for s in steps if s.execution.claim.run_id not in held])
                    for step, value, text_, error in ended:
                        executions.append(step.execution)
                        self._end(step, value, text_, error)
                    if executions:
                        written = write(
                            tx, batch.tokens, self._worker_id, executions, is_by_link=False
                        )
                    if self._is_long(began):
                        lease_rows.renew(tx, batch.tokens, batch.open_ids(), self._hold_s)
                    is_ours = False
            except (DBAPIError, UnicodeError) as error:
                _give_up(tx)
                if executions:
                    raise InDoubt(error, is_ours=is_ours) from error
                raise
            except BaseException:
                _give_up(tx)
                raise
        mark_written(executions, written)
        return executions

    def _end(self, step: PendingStep, value: Any, text_: str, error: BaseException | None) -> None:
        if error is None:
            moves.finish_step(step, value, text_)
        elif error is NOT_BEGUN:
            moves.withdraw(step.execution, 1)
        elif isinstance(error, Unstorable):
            moves.fail_unstorable(step, error)
        elif isinstance(error, DBAPIError):
            self._end_attempt(step, error)
        else:
            moves.fail_step(step, error)


def _lose(batch: Batch, steps: Sequence[PendingStep]) -> None:
    for step in steps:
        batch.lost.add(step.execution.claim.run_id)
        step.execution.close()


def _give_up(tx: Connection) -> None:
    """Who knows in what state its session is, if an author has not closed it."""
    with suppress(ResourceClosedError):
        tx.invalidate()
