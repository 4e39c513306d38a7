"""Transactional steps of one transaction, each in a savepoint of its own.

What a step leaves in its session is gone before the next one, and before our own statements.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session

from veltrix.authoring.encoding import encode
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines.execution import PendingStep, StepTimeout
from veltrix.pipeline.execute.step_calls import NOT_BEGUN, Alarm, call_author
from veltrix.pipeline.execute.transactional.step_gate import Sharing, StepGate, TransactionEnded
from veltrix.store.connections import clean, execute_plain
from veltrix.store.errors import Answer, answer_of, sqlstate_of

SHARED_LOCK_MS = 50  # that one waits for a lock while others wait for it
_IDLE_MORE_MS = 10_000  # a session of a step may be idle as long as the step may take, and more
_CANCELLED = "57014"
# Deferred constraints and triggers are asked now: at the commit they would leave in the session
# what nobody cleans, and refuse what a workflow has gone on with.
ASK_DEFERRED = "set constraints all immediate;"
_SAVEPOINT = "savepoint veltrix_step;"
_RELEASE = "release savepoint veltrix_step;"
_ROLL_BACK = f"rollback to {_SAVEPOINT} {_RELEASE}"
# A step that has ended: its output, as the workflow gets it and as JSON, or its error.
Ended = tuple[PendingStep, Any, str, BaseException | None]


class Contended(Exception):
    """A statement of a shared transaction met what another may be the cause of."""


class NeedsItsOwn(Exception):
    """The step wants what may end a transaction, which others shared: nothing of it was done."""

    def __init__(self, step: PendingStep) -> None:
        super().__init__(step.call.step.name)
        self.step = step


class AttemptLost(Exception):
    """The step's function has run; its connection, or its transaction, did not outlive it."""

    def __init__(self, step: PendingStep, error: BaseException) -> None:
        super().__init__(str(error))
        self.step, self.error = step, error


def limits_of(limit_ms: int, lock_ms: int) -> str:
    """What PostgreSQL is to keep to while a step runs: statements that say so."""
    return (
        f"set local statement_timeout = {limit_ms}; set local lock_timeout = {lock_ms};"
        f"set local idle_in_transaction_session_timeout = {limit_ms + _IDLE_MORE_MS};"
    )


class Savepoints:
    """The steps of one transaction, one after another, each in a savepoint of its own."""

    def __init__(
        self,
        batch: Batch,
        alarm: Alarm,
        gate: StepGate,
        monotonic: Callable[[], float],
        *,
        is_shared: bool,
    ) -> None:
        self._batch, self._alarm, self._gate, self._monotonic = batch, alarm, gate, monotonic
        self.sharing = Sharing.IN_SAVEPOINTS if is_shared else Sharing.ALONE
        self._closing = ""  # ends the savepoint of the last one

    def run(self, tx: Connection, steps: Sequence[PendingStep]) -> list[Ended]:
        """How each has ended; the session is as it was.

        Raises Contended, NeedsItsOwn, and AttemptLost when the transaction has ended with a step.
        """
        ended: list[Ended] = []
        try:
            for step in steps:
                ended += [self._step(tx, step)]  # one by one: an error leaves those before it
            if self._closing:
                clean(tx, self._closing + ASK_DEFERRED)
        except DBAPIError as error:
            if self.sharing and len(ended) == len(steps):
                raise Contended from error  # whose it is shows when each goes alone
            ran = [step for step, _, _, refused in ended if refused is not NOT_BEGUN]
            if ran:  # the last one ended our transaction, whatever it did for that
                raise AttemptLost(ran[-1], error) from error
            raise
        return ended

    def _open(self, tx: Connection, step: PendingStep) -> None:
        limit_ms = max(1, int(step.limit_s * 1000))
        limits = limits_of(limit_ms, SHARED_LOCK_MS if self.sharing else limit_ms)
        if self._closing:
            clean(tx, self._closing, limits + _SAVEPOINT)
        else:
            execute_plain(tx, limits + _SAVEPOINT)

    def _step(self, tx: Connection, step: PendingStep) -> Ended:
        now = self._monotonic()
        if not self._batch.begin(step, now):
            return step, None, "", NOT_BEGUN
        self._open(tx, step)
        # The session has a savepoint of its own in ours: its author may commit it or roll it
        # back and go on, and a step that fails after that still leaves nothing.
        session = Session(bind=tx, join_transaction_mode="create_savepoint")
        before = _held(tx)
        self._closing, self._batch.current = _ROLL_BACK, step
        self._gate.begin_step()
        try:
            try:
                self._alarm.arm(step.limit_s, self._monotonic())
                value = call_author(step, session)
            finally:
                self._alarm.disarm()
            session.commit()
            encoded = encode(value, step.execution.limits.output_bytes_max)
            session.close()
            self._insist(tx, before)
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the attempt's end
            self._gate.end_step()
            self._give_up(tx, before, step, session, error)
            return step, None, "", _as_timeout(error, step)
        finally:
            self._gate.end_step()
            session.bind = None  # who kept it has nothing to reach our transaction by
            self._batch.end_current()
            step.execution.busy_s += self._monotonic() - now
        self._closing = _RELEASE
        return step, step.call.step.codec.output(value, encoded), encoded, None

    def _insist(self, tx: Connection, before: tuple[RootTransaction | None, object]) -> None:
        """The transaction is what it was, and nothing was refused: an author may not say so."""
        if self._gate.is_refused or _held(tx) != before:
            raise TransactionEnded

    def _give_up(
        self,
        tx: Connection,
        before: tuple[RootTransaction | None, object],
        step: PendingStep,
        session: Session,
        error: BaseException,
    ) -> None:
        """End the session of a step that failed; raises when the transaction cannot go on."""
        is_over = _held(tx) != before
        try:
            session.close()
        except Exception:  # noqa: BLE001 - its savepoints are gone with the transaction
            is_over = True
        if self._gate.is_refused:
            raise NeedsItsOwn(step) from error
        if is_over:
            raise AttemptLost(step, error) from error
        if self.sharing and _is_contention(error):
            raise Contended from error
        if answer_of(error) is Answer.AGAIN and sqlstate_of(error) != _CANCELLED:
            raise AttemptLost(step, error) from error


def _held(tx: Connection) -> tuple[RootTransaction | None, object]:
    """The transaction and the driver's connection that our statements go to, if there are any."""
    transaction = None if tx.invalidated or tx.closed else tx.get_transaction()
    if transaction is None or not transaction.is_active:
        return None, None
    return transaction, tx.connection.driver_connection


def _is_contention(error: BaseException) -> bool:
    """Of the neighbours, perhaps: a lock, a deadlock, what they left of the transaction."""
    if isinstance(error, PendingRollbackError):
        return True
    is_of_database = isinstance(error, DBAPIError) and sqlstate_of(error) != _CANCELLED
    return is_of_database and answer_of(error) in {Answer.AGAIN, Answer.CANNOT_SERVE}


def _as_timeout(error: BaseException, step: PendingStep) -> BaseException:
    if sqlstate_of(error) == _CANCELLED:
        return StepTimeout(f"a statement reached the step's limit of {step.limit_s:g} s")
    return error
