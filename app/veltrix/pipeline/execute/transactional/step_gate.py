"""The gate between transactional steps and the server.

While a statement is answered the alarm waits: to interrupt it would lose the shared connection. And
where runs share a transaction without savepoints, the gate sees what no rollback of one of them
alone could undo, and lets nothing out that would end the transaction.
"""

from threading import get_ident

from veltrix.pipeline.execute.step_calls import Alarm
from veltrix.pipeline.execute.transactional.plain_sql import StatementKind, kind_of


class NeedsSavepoint(BaseException):
    """Raised in an author's code: what it wants cannot be done in a transaction without savepoints.

    No Exception: an author's `except Exception` must not eat it. Whether or not it is eaten, all of
    the transaction is rolled back.
    """


class StepGate:
    """Asked by the guarded connections of one process, see `guard`.

    `is_simple`: nothing was done since `open` that only a savepoint could hold. `is_tidy`: nor was
    anything, since `begin_step`, that may have left something in the session.
    """

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._is_strict = self._is_in_step = False
        self._thread, self._executing = 0, 0
        self.is_simple = self.is_tidy = True

    def open(self, *, is_strict: bool) -> None:
        """A transaction of this thread begins. Strict: without savepoints."""
        self._thread, self._is_strict, self._is_in_step = get_ident(), is_strict, False
        self.is_simple = self.is_tidy = True

    def begin_step(self) -> None:
        """From here on statements are the author's."""
        self.is_tidy, self._is_in_step = True, True

    def end_step(self) -> None:
        """From here on they are ours: a thread that a step has left behind sends none."""
        self._is_in_step = False

    def begin(self, statement: object) -> None:
        """See `Guard`."""
        if self._is_strict:
            self._judge(statement)
        self._executing = get_ident()
        self._alarm.pause()

    def end(self) -> None:
        """See `Guard`."""
        self._executing = 0
        self._alarm.go_on()

    def begin_rollback(self) -> None:
        """See `Guard`."""
        self.is_simple = False
        self._executing = get_ident()
        self._alarm.pause()

    def pass_by(self) -> None:
        """See `Guard`."""
        if self._is_strict:
            thread = get_ident()
            if self._executing != thread and (self._is_in_step or thread != self._thread):
                self._refuse()

    def _judge(self, statement: object) -> None:
        if get_ident() != self._thread:
            self.is_simple = False
            if not self._is_in_step:
                self._refuse()
        if not self._is_in_step:
            return
        kind = kind_of(statement) if type(statement) is str else StatementKind.CONTROL
        if kind is StatementKind.CONTROL:
            self._refuse()
        if kind is StatementKind.ODD:
            self.is_simple = False
        elif kind is StatementKind.UNSURE:
            self.is_tidy = False

    def _refuse(self) -> None:
        self.is_simple = False
        raise NeedsSavepoint("a step did what may end the transaction of others; it is run again")
