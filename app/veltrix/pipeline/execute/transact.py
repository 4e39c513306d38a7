"""Transactional steps: their effect and the record of it are one commit.

In a round they run last. Each run's step has a savepoint in a shared transaction behind the locks
of the runs (mechanics 2 and 8); at the first wait for a lock or deadlock, and when its commit is
refused, the whole is rolled back and each gets a transaction of its own. So the code may run more
than once; its effect is committed once. What a step leaves in its session is gone before the next
one, in the same transaction too, and before our own statements.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session

from veltrix.authoring.encoding import Unstorable, encode
from veltrix.domain.backoff import Backoff
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.execute.attempts import extra_of, next_attempt_s
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines import endings, moves
from veltrix.pipeline.execute.coroutines.execution import Execution, PendingStep, StepTimeout
from veltrix.pipeline.execute.settle import mark_written, write
from veltrix.pipeline.execute.step_calls import NOT_BEGUN, Alarm, call_author
from veltrix.store.connections import clean, execute_plain
from veltrix.store.errors import Answer, answer_of, is_bad_value, sqlstate_of, told
from veltrix.store.transactions import transaction_on

SHARED_MAX = 50  # runs in one transaction: 64 savepoints fill PostgreSQL's subtransaction cache
_SHARED_LOCK_TIMEOUT_MS = 50
_PAUSE_S, _PAUSE_S_MAX = 0.05, 1.0  # until what could not begin is tried again
_IDLE_MORE_MS = 10_000  # a session of a step may be idle as long as the step may take, and more
_CANCELLED = "57014"
_SAVEPOINT = "savepoint veltrix_step;"
_RELEASE = "release savepoint veltrix_step;"
_ROLL_BACK = f"rollback to {_SAVEPOINT} {_RELEASE}"
_Ended = tuple[PendingStep, Any, str, BaseException | None]
Rewind = Callable[[Sequence[Execution]], list[Execution]]


class Contended(Exception):
    """A statement of a shared transaction met what another may be the cause of."""


class AttemptLost(Exception):
    """The step's function has run; its connection, or its transaction, did not outlive it."""

    def __init__(self, step: PendingStep, error: BaseException) -> None:
        super().__init__(str(error))
        self.step, self.error = step, error


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
                if len(first_of) < SHARED_MAX:
                    first_of.setdefault(step.execution, step)
            chunk = [s for s in first_of.values() if not s.execution.is_over]
            taken = set(first_of.values())
            steps = [s for s in steps if s not in taken]
            going_on += self._chunk(batch, chunk)
        return list(dict.fromkeys(e for e in going_on if not e.is_over))

    def _chunk(self, batch: Batch, steps: list[PendingStep]) -> list[Execution]:
        alone = [s for s in steps if s.execution.claim.run_id in self._separate]
        shared = [s for s in steps if s not in alone]
        going_on: list[Execution] = []
        if len(shared) > 1:
            try:
                going_on += self._once(batch, shared, is_shared=True)
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
            except (Contended, DBAPIError):
                pass  # whose it is, and how long to wait, shows when each goes alone
        for step in shared + alone:
            going_on += self._alone(batch, step)
        return going_on

    def _alone(self, batch: Batch, step: PendingStep) -> list[Execution]:
        backoff: Backoff | None = None  # as most steps need none
        while True:
            try:
                found = self._once(batch, [step], is_shared=False)
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
        self, batch: Batch, steps: Sequence[PendingStep], *, is_shared: bool
    ) -> list[Execution]:
        """As `_commit`. What took long and came to nothing leaves no lease that is over."""
        began = self._monotonic()
        try:
            return self._commit(batch, steps, is_shared=is_shared)
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
        self, batch: Batch, steps: Sequence[PendingStep], *, is_shared: bool
    ) -> list[Execution]:
        """Run and commit.

        Raises Contended, AttemptLost and errors of the database before anything has advanced,
        InDoubt after it.
        """
        if self._engine is None:
            self._engine = self._make_engine()
        executions: list[Execution] = []
        written: dict[str, bool] = {}
        is_ours, began = True, self._monotonic()
        with self._engine.connect() as tx:
            try:
                with transaction_on(tx):
                    held = lease_rows.lock_held(
                        tx, batch.tokens, [s.execution.claim.run_id for s in steps]
                    )
                    mine = [s for s in steps if s.execution.claim.run_id in held]
                    ended = _Steps(tx, batch, self._alarm, self._monotonic, is_shared).run(mine)
                    _lose(batch, [s for s in steps if s not in mine])
                    for step, value, text_, error in ended:
                        executions.append(step.execution)
                        self._end(step, value, text_, error)
                    if executions:
                        written = write(tx, batch.tokens, self._worker_id, executions)
                    if self._is_long(began):
                        lease_rows.renew(tx, batch.tokens, sorted(held), self._hold_s)
                    is_ours = False
            except (DBAPIError, UnicodeError) as error:
                tx.invalidate()  # who knows in what state its session is
                if executions:
                    raise InDoubt(error, is_ours=is_ours) from error
                raise
            except BaseException:
                tx.invalidate()
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


class _Steps:
    """The steps of one transaction, one after another, each in a savepoint of its own."""

    def __init__(
        self,
        tx: Connection,
        batch: Batch,
        alarm: Alarm,
        monotonic: Callable[[], float],
        is_shared: bool,
    ) -> None:
        self._tx, self._batch, self._alarm, self._monotonic = tx, batch, alarm, monotonic
        self._is_shared = is_shared
        self._closing = ""  # ends the savepoint of the last one

    def run(self, steps: Sequence[PendingStep]) -> list[_Ended]:
        """How each has ended; the session is as it was.

        Raises Contended, and AttemptLost when the transaction has ended with a step.
        """
        ended: list[_Ended] = []
        try:
            for step in steps:
                ended += [self._step(step)]  # one by one: an error leaves those before it
            if self._closing:
                clean(self._tx, self._closing)
        except DBAPIError as error:
            ran = [step for step, _, _, refused in ended if refused is not NOT_BEGUN]
            if ran:  # the last one ended our transaction, whatever it did for that
                raise AttemptLost(ran[-1], error) from error
            raise
        return ended

    def _open(self, step: PendingStep) -> None:
        limit_ms = max(1, int(step.limit_s * 1000))
        lock_ms = _SHARED_LOCK_TIMEOUT_MS if self._is_shared else limit_ms
        limits = (
            f"set local statement_timeout = {limit_ms}; set local lock_timeout = {lock_ms};"
            f"set local idle_in_transaction_session_timeout = {limit_ms + _IDLE_MORE_MS};"
        )
        if self._closing:
            clean(self._tx, self._closing, limits + _SAVEPOINT)
        else:
            execute_plain(self._tx, limits + _SAVEPOINT)

    def _step(self, step: PendingStep) -> _Ended:
        now = self._monotonic()
        if not self._batch.begin(step, now):
            return step, None, "", NOT_BEGUN
        self._open(step)
        # The session has a savepoint of its own in ours: its author may commit it or roll it
        # back and go on, and a step that fails after that still leaves nothing.
        session = Session(bind=self._tx, join_transaction_mode="create_savepoint")
        self._closing, self._batch.current = _ROLL_BACK, step
        try:
            with _limit(self._tx, self._alarm, step.limit_s, self._monotonic()):
                value = call_author(step, session)
            session.commit()
            encoded = encode(value, step.execution.limits.output_bytes_max)
            session.close()
        except BaseException as error:  # noqa: BLE001 - whatever it raises is the attempt's end
            self._give_up(step, session, error)
            return step, None, "", _as_timeout(error, step)
        finally:
            self._batch.end_current()
            step.execution.busy_s += self._monotonic() - now
        self._closing = _RELEASE
        return step, step.call.step.codec.output(value, encoded), encoded, None

    def _give_up(self, step: PendingStep, session: Session, error: BaseException) -> None:
        """End the session of a step that failed; raises when the transaction cannot go on."""
        if self._tx.invalidated or self._tx.closed:
            with suppress(Exception):  # there is nothing left to end
                session.close()
            raise AttemptLost(step, error) from error
        session.close()
        if self._is_shared and _is_contention(error):
            raise Contended from error
        if answer_of(error) is Answer.AGAIN and sqlstate_of(error) != _CANCELLED:
            raise AttemptLost(step, error) from error


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


@contextmanager
def _limit(tx: Connection, alarm: Alarm, limit_s: float, now: float) -> Iterator[None]:
    """The alarm, but never while a statement runs: that would lose the shared connection."""

    def pause(*_: object) -> None:
        alarm.pause()

    def go_on(*_: object) -> None:
        alarm.go_on()

    event.listen(tx, "before_cursor_execute", pause)
    event.listen(tx, "after_cursor_execute", go_on)
    try:
        alarm.arm(limit_s, now)
        yield
    finally:
        alarm.disarm()
        event.remove(tx, "before_cursor_execute", pause)
        event.remove(tx, "after_cursor_execute", go_on)
