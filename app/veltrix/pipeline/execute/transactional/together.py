"""Transactional steps of one transaction, without a savepoint: for steps that simply succeed.

Two savepoints and a cleaned session took three quarters of a step's time (docs/decisions/0044).
Where one of these steps is not a simple success, nothing of any of them is kept: all are run again,
each in a savepoint.

What one leaves in its session no other sees: it has a session of its own, whose statements show
that they leave nothing; where they do not, or where triggers and functions of the database may do
more than statements show, the session is cleaned after each step, as with savepoints.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from veltrix.authoring.encoding import encode
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines.execution import PendingStep
from veltrix.pipeline.execute.step_calls import NOT_BEGUN, Alarm, call_author
from veltrix.pipeline.execute.transactional.guard import guarded
from veltrix.pipeline.execute.transactional.hidden_code import has_hidden_code
from veltrix.pipeline.execute.transactional.savepoints import (
    ASK_DEFERRED,
    SHARED_LOCK_MS,
    Ended,
    limits_of,
)
from veltrix.pipeline.execute.transactional.step_gate import Sharing, StepGate
from veltrix.store.connections import clean, execute_plain

_WORK_S = 0.05  # after which the transaction ends: others wait for what it locks


class NotSimple(Exception):
    """A step did not simply succeed; None: nobody knows which. Whether it shares with nobody."""

    def __init__(self, step: PendingStep | None, *, needs_its_own: bool = False) -> None:
        super().__init__("" if step is None else step.call.step.name)
        self.step, self.needs_its_own = step, needs_its_own


class _StepSession(Session):
    """A session whose connection is not its author's, and whose end is not that of its work."""

    gate: StepGate

    def close(self) -> None:
        """As SQLAlchemy's, which drops what was not committed. Only a savepoint could do that."""
        self.gate.drop(is_something=self.in_transaction())
        super().close()

    def reset(self) -> None:
        """As SQLAlchemy's; see `close`."""
        self.gate.drop(is_something=self.in_transaction())
        super().reset()

    def connection(self, *arguments: Any, **options: Any) -> Connection:
        """As SQLAlchemy's. It has options, events and a driver's connection, which others use."""
        self.gate.is_simple = False
        return super().connection(*arguments, **options)

    def get_bind(self, *arguments: Any, **options: Any) -> Engine | Connection:
        """As SQLAlchemy's, which says itself for what it asks; an author need not."""
        if not (arguments or options):
            self.gate.is_simple = False
        return super().get_bind(*arguments, **options)


class Together:
    """The steps of one transaction, one after another."""

    sharing = Sharing.TOGETHER

    def __init__(
        self, batch: Batch, alarm: Alarm, gate: StepGate, monotonic: Callable[[], float]
    ) -> None:
        self._batch, self._alarm, self._gate, self._monotonic = batch, alarm, gate, monotonic
        self._limit_ms = 0  # that PostgreSQL keeps to now; 0: it is not ours
        self._is_clean = self._is_hidden = False
        self.tried: list[PendingStep] = []  # for the others there was no time

    def run(self, tx: Connection, steps: Sequence[PendingStep]) -> list[Ended]:
        """How each of the first of them has ended; the session is as it was.

        Raises NotSimple, and errors of the database before anything of them has run.
        """
        began = self._monotonic()
        self._is_clean, self._is_hidden = True, has_hidden_code(tx, began)
        ended: list[Ended] = []
        for step in steps:
            self.tried.append(step)
            ended.append(self._step(tx, step))
            if self._monotonic() - began > _WORK_S:
                break
        try:
            clean(tx, ASK_DEFERRED)
        except DBAPIError as error:
            raise NotSimple(None) from error
        return ended

    def _step(self, tx: Connection, step: PendingStep) -> Ended:
        now = self._monotonic()
        if not self._batch.begin(step, now):
            return step, None, "", NOT_BEGUN
        self._open(tx, step)
        before = tx.get_transaction(), tx.get_execution_options()
        session = _StepSession(bind=tx, join_transaction_mode="rollback_only")
        session.gate, self._batch.current = self._gate, step
        self._gate.begin_step()
        try:
            try:
                self._alarm.arm(step.limit_s, self._monotonic())
                value = call_author(step, session)
            finally:
                self._alarm.disarm()
            if _has_something_to_commit(session):
                session.commit()
            encoded = encode(value, step.execution.limits.output_bytes_max)
            self._gate.end_step()
            session.close()
        except BaseException as error:  # noqa: BLE001 - whatever it raises: not a simple success
            self._gate.end_step()
            return self._fail(step, session, error)
        finally:
            self._gate.end_step()
            session.bind = None  # who kept it has nothing to reach our transaction by
            self._batch.end_current()
            step.execution.busy_s += self._monotonic() - now
        if not self._gate.is_simple or not _is_as_before(tx, *before):
            raise NotSimple(step, needs_its_own=self._gate.is_refused)
        self._is_clean = self._gate.is_tidy and not self._is_hidden
        return step, step.call.step.codec.output(value, encoded), encoded, None

    def _open(self, tx: Connection, step: PendingStep) -> None:
        """The session is clean, with the limits of this step."""
        limit_ms = max(1, int(step.limit_s * 1000))
        if self._is_clean and limit_ms == self._limit_ms:
            return
        limits = limits_of(limit_ms, SHARED_LOCK_MS)
        try:
            if self._is_clean:
                execute_plain(tx, limits)
            else:
                clean(tx, after=limits)
        except DBAPIError as error:
            raise NotSimple(None) from error
        self._limit_ms = limit_ms

    def _fail(self, step: PendingStep, session: Session, error: BaseException) -> Ended:
        """What it did so far only a savepoint could take back alone: raises NotSimple."""
        with suppress(Exception):
            session.close()
        raise NotSimple(step, needs_its_own=self._gate.is_refused) from error


def _has_something_to_commit(session: Session) -> bool:
    """Objects, or somebody who waits for its commit, which would do nothing else in ours."""
    calls = session.dispatch
    return any(True for _ in session) or bool(calls.before_commit or calls.after_commit)


def _is_as_before(tx: Connection, transaction: RootTransaction | None, options: Any) -> bool:
    """Still the same transaction, which can be committed, on a connection without new options."""
    return (
        transaction is not None
        and not tx.invalidated
        and tx.get_transaction() is transaction
        and transaction.is_active
        and tx.get_execution_options() is options
        and guarded(tx).pgconn.transaction_status == TransactionStatus.INTRANS
    )
