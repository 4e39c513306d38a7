"""Transactional steps: their effect and the record of it are one commit.

In a round they run last. Each run's step has a savepoint in a shared transaction behind the locks
of the runs (mechanics 2 and 8); at the first wait for a lock or deadlock the whole is rolled back
and each gets a transaction of its own. So the code may run more than once; its effect is committed
once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session

from app.domain.encoding import Unstorable, encode
from app.domain.flow import step_context
from app.pipeline import failures
from app.pipeline.execution import Execution
from app.pipeline.frames import PendingStep, StepTimeout
from app.pipeline.hand import Hand
from app.pipeline.settle import mark_written, write
from app.pipeline.steps import Alarm, context_of
from app.store import leases
from app.store.transactions import is_away, is_bad_value, is_transient, sqlstate_of, transaction

SHARED_MAX = 50  # runs in one transaction: 64 savepoints fill PostgreSQL's subtransaction cache
_SHARED_LOCK_TIMEOUT_MS = 50
_TRIES_MAX = 20
_Ended = tuple[PendingStep, Any, str, BaseException | None]
Rewind = Callable[[Sequence[Execution]], list[Execution]]


class Contended(Exception):
    """A statement of a shared transaction waited for a lock, or was the victim of a deadlock."""


class InDoubt(Exception):
    """The workflow has advanced with the step's output; its commit failed or is unknown."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Transactor:
    """Runs transactional steps on an engine of its own (not AUTOCOMMIT), opened at the first."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        alarm: Alarm,
        worker_id: str,
        rewind: Rewind,
        wait: Callable[[float], object],
        monotonic: Callable[[], float],
    ) -> None:
        self._make_engine, self._alarm, self._worker_id = make_engine, alarm, worker_id
        self._rewind, self._wait, self._monotonic = rewind, wait, monotonic
        self._engine: Engine | None = None
        self._set_limits: tuple[int, int] | None = None  # of the open transaction, in ms
        self._separate: set[str] = set()  # runs that never share a transaction again

    def __call__(self, hand: Hand, steps: list[PendingStep]) -> list[Execution]:
        """Run and commit these steps, at most one per run at a time; the executions to go on with.

        Waits for the database as long as it takes; a run whose commit is in doubt is executed again
        from its journal.
        """
        going_on: list[Execution] = []
        while steps:
            first_of: dict[Execution, PendingStep] = {}
            for step in steps:
                if len(first_of) < SHARED_MAX:
                    first_of.setdefault(step.execution, step)
            chunk = [s for s in first_of.values() if not s.execution.is_over]
            taken = set(first_of.values())
            steps = [s for s in steps if s not in taken]
            going_on += self._chunk(hand, chunk)
        return list(dict.fromkeys(e for e in going_on if not e.is_over))

    def _chunk(self, hand: Hand, steps: list[PendingStep]) -> list[Execution]:
        alone = [s for s in steps if s.execution.claim.run_id in self._separate]
        shared = [s for s in steps if s not in alone]
        going_on: list[Execution] = []
        if len(shared) > 1:
            try:
                going_on += self._once(hand, shared, is_shared=True)
                shared = []
            except Contended:
                pass
            except InDoubt as doubt:
                if not is_away(doubt.error):
                    self._separate |= {s.execution.claim.run_id for s in shared}
                going_on += self._rewound(hand, shared)
                shared = []
            except DBAPIError as error:
                if is_away(error):
                    self._wait(0.2)
        for step in shared + alone:
            going_on += self._alone(hand, step)
        return going_on

    def _alone(self, hand: Hand, step: PendingStep) -> list[Execution]:
        pause_s = 0.05
        for attempt in count(1):
            try:
                return self._once(hand, [step], is_shared=False)
            except InDoubt as doubt:
                fresh = self._rewound(hand, [step])
                if is_bad_value(doubt.error):
                    for execution in fresh:
                        failures.fail_unstorable(execution, "", "", step.attempt, doubt.error)
                return fresh
            except DBAPIError as error:
                if is_away(error):
                    self._wait(pause_s)
                    pause_s = min(1.0, pause_s * 2)
                elif not is_transient(error) or attempt >= _TRIES_MAX:
                    step.execution.fail_step(step, error)
                    return [step.execution]
        raise AssertionError("unreachable")

    def _rewound(self, hand: Hand, steps: Sequence[PendingStep]) -> list[Execution]:
        """Nobody knows whether the commit took place: the journal does. Begin again from it."""
        fresh = self._rewind([step.execution for step in steps])
        for execution in fresh:
            hand.executions[execution.claim.run_id] = execution
        return fresh

    def _once(
        self, hand: Hand, steps: Sequence[PendingStep], *, is_shared: bool
    ) -> list[Execution]:
        """Run and commit.

        Raises Contended and errors of the database before anything has advanced, InDoubt after it.
        """
        if self._engine is None:
            self._engine = self._make_engine()
        executions: list[Execution] = []
        self._set_limits = None
        try:
            with transaction(self._engine) as tx:
                held = leases.lock_held(tx, hand.token, [s.execution.claim.run_id for s in steps])
                mine = [s for s in steps if s.execution.claim.run_id in held]
                ended = [self._step(tx, hand, step, is_shared=is_shared) for step in mine]
                for step in steps:
                    if step not in mine:
                        hand.lost.add(step.execution.claim.run_id)
                        step.execution.close()
                for step, value, text_, error in ended:
                    executions.append(step.execution)
                    _end(step, value, text_, error)
                written = write(tx, hand.token, self._worker_id, executions) if executions else {}
        except (DBAPIError, UnicodeError) as error:
            if executions:
                raise InDoubt(error) from error
            raise
        mark_written(executions, written)
        return executions

    def _step(self, tx: Connection, hand: Hand, step: PendingStep, *, is_shared: bool) -> _Ended:
        """One step in its savepoint, rolled back if it fails."""
        limit_ms = max(1, int(step.limit_s * 1000))
        lock_ms = _SHARED_LOCK_TIMEOUT_MS if is_shared else limit_ms
        if self._set_limits != (limit_ms, lock_ms):
            self._set_limits = limit_ms, lock_ms
            tx.execute(
                text(
                    f"select set_config('statement_timeout', '{limit_ms}', true),"
                    f" set_config('lock_timeout', '{lock_ms}', true)"
                )
            )
        # The session has a savepoint of its own in ours: its author may commit it or roll it
        # back and go on, and a step that fails after that still leaves nothing.
        savepoint = tx.begin_nested()
        session = Session(bind=tx, join_transaction_mode="create_savepoint")
        context = step_context.set(context_of(step))
        step.started, step.execution.has_begun, hand.current = self._monotonic(), True, step
        try:
            with _limit(tx, self._alarm, step.limit_s):
                value = step.call.step.function(session, *step.call.arguments, **step.call.keywords)
            session.commit()
            encoded = encode(value, step.execution.limits.output_bytes_max)
            session.close()
            savepoint.commit()
        except BaseException as error:
            if is_shared and _is_contention(error):
                session.close()
                raise Contended from error
            if isinstance(error, DBAPIError) and (is_away(error) or is_transient(error)):
                raise
            session.close()
            if savepoint.is_active:
                savepoint.rollback()
            return step, None, "", _as_timeout(error, step)
        finally:
            hand.current = None
            step.execution.busy_s += self._monotonic() - step.started
            step_context.reset(context)
        return step, step.call.step.codec.output(value, encoded), encoded, None


def _end(step: PendingStep, value: Any, text_: str, error: BaseException | None) -> None:
    if error is None:
        step.execution.finish_step(step, value, text_)
    elif isinstance(error, Unstorable):
        step.execution.fail_unstorable(step, error)
    else:
        step.execution.fail_step(step, error)


def _is_contention(error: BaseException) -> bool:
    return is_transient(error) or isinstance(error, PendingRollbackError)


def _as_timeout(error: BaseException, step: PendingStep) -> BaseException:
    if sqlstate_of(error) == "57014":
        return StepTimeout(f"a statement reached the step's limit of {step.limit_s:g} s")
    return error


@contextmanager
def _limit(tx: Connection, alarm: Alarm, limit_s: float) -> Iterator[None]:
    """The alarm, but never while a statement runs: that would lose the shared connection."""

    def pause(*_: object) -> None:
        alarm.pause()

    def go_on(*_: object) -> None:
        alarm.go_on()

    event.listen(tx, "before_cursor_execute", pause)
    event.listen(tx, "after_cursor_execute", go_on)
    try:
        alarm.arm(limit_s)
        yield
    finally:
        alarm.disarm()
        event.remove(tx, "before_cursor_execute", pause)
        event.remove(tx, "after_cursor_execute", go_on)
