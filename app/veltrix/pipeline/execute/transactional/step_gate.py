"""The gate between transactional steps and the server.

While a statement is answered the alarm waits: to interrupt it would lose the shared connection.
Where runs share a transaction, nothing is let out that may end it; and where they do so without
savepoints, the gate sees what no rollback of one of them alone could undo. A step by itself may not
end its transaction either: its effect would be committed without the record of it.
"""

from enum import IntEnum
from threading import get_ident

from veltrix.authoring.flow import NonRetryable
from veltrix.pipeline.execute.step_calls import Alarm
from veltrix.pipeline.execute.transactional.plain_sql import StatementKind, ends_it, kind_of


class Sharing(IntEnum):
    """Who has a transaction, and how."""

    ALONE = 0
    IN_SAVEPOINTS = 1
    TOGETHER = 2


class EndsForOthers(BaseException):
    """Raised in an author's code: what it wants cannot be done in a transaction that others share.

    No Exception: an author's `except Exception` must not eat it. Whether or not it is eaten, all of
    the transaction is rolled back.
    """


class TransactionEnded(NonRetryable):
    """A step by itself wanted to end its transaction, or has rolled all of it back."""

    def __init__(self) -> None:
        super().__init__("a transactional step may not end its transaction: its end commits it")


class StepGate:
    """Asked by the guarded connections of one process, see `guard`.

    `is_simple`: nothing was done since `open` that only a savepoint could hold. `is_tidy`: nor was
    anything, since `begin_step`, that may have left something in the session. `is_refused`: since
    then, something was refused that a transaction of its own might allow.
    """

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._sharing, self._is_in_step = Sharing.ALONE, False
        self._thread, self._executing = 0, 0
        self.is_simple = self.is_tidy = True
        self.is_refused = False

    def open(self, sharing: Sharing) -> None:
        """A transaction of this thread begins."""
        self._thread, self._sharing, self._is_in_step = get_ident(), sharing, False
        self.is_simple = self.is_tidy = True

    def begin_step(self) -> None:
        """From here on statements are the author's."""
        self.is_tidy, self.is_refused, self._is_in_step = True, False, True

    def end_step(self) -> None:
        """From here on they are ours: a thread that a step has left behind sends none."""
        self._is_in_step = False

    def drop(self, *, is_something: bool) -> None:
        """A step lets go of what it did, without a word to the server."""
        if self._is_in_step and is_something:
            self.is_simple = False

    def begin(self, statement: object) -> None:
        """See `Guard`."""
        self._judge(statement)
        self._executing = get_ident()
        self._alarm.pause()

    def end(self) -> None:
        """See `Guard`."""
        self._executing = 0
        self._alarm.go_on()

    def begin_rollback(self) -> None:
        """See `Guard`."""
        self._keep_out()
        self.is_simple = False
        self._executing = get_ident()
        self._alarm.pause()

    def begin_commit(self) -> None:
        """See `Guard`."""
        self._keep_out()
        if self._is_in_step:
            self._refuse_end()

    def pass_by(self) -> None:
        """See `Guard`."""
        self._keep_out()
        if self._is_in_step and self._sharing and self._executing != get_ident():
            self._refuse()

    def _keep_out(self) -> None:
        """A thread that a step has left behind, when no step runs."""
        if not self._is_in_step and get_ident() != self._thread:
            self._refuse()

    def _judge(self, statement: object) -> None:
        self._keep_out()
        if not self._is_in_step:
            return
        if get_ident() != self._thread:
            self.is_simple = False
        if self._sharing is Sharing.ALONE:
            if ends_it(statement):
                self._refuse_end()
            return
        kind = kind_of(statement) if type(statement) is str else StatementKind.CONTROL
        if kind is StatementKind.CONTROL:
            self._refuse()
        if kind is StatementKind.ODD:
            self.is_simple = False
        elif kind is StatementKind.UNSURE:
            self.is_tidy = False

    def _refuse_end(self) -> None:
        if self._sharing is Sharing.ALONE:
            raise TransactionEnded
        self._refuse()

    def _refuse(self) -> None:
        self.is_simple = False
        self.is_refused = self.is_refused or self._is_in_step
        raise EndsForOthers("a step did what may end the transaction of others; it is run again")
