"""Execute: advance all runs of a list together, until each is settled or handed back.

Whatever has finished since the last write is written and resumed; nobody waits for a round. The
journal is written when no sync step is left to run, and at the latest `journal_write_s` after the
last write, so a crash repeats at most the steps of that time, or one step.
"""

from collections.abc import Callable

from veltrix.authoring.flow import here
from veltrix.domain.states import RunState
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.carry import carry_into_threads
from veltrix.pipeline.execute.coroutines import moves
from veltrix.pipeline.execute.coroutines.execution import Execution, ExecutionLimits, PendingStep
from veltrix.pipeline.execute.step_calls import Alarm, AsyncSteps, finish, run_sync

Write = Callable[[list[Execution]], list[str]]
Transact = Callable[[Batch, list[PendingStep]], list[Execution]]
_NAP_S = 0.1  # between two looks at whether the worker is to shut down


class BatchExecutor:
    """Executes lists, one at a time, in the main thread of a child."""

    def __init__(
        self, limits: ExecutionLimits, alarm: Alarm, async_steps: AsyncSteps, transact: Transact
    ) -> None:
        self._limits, self._alarm, self._async_steps = limits, alarm, async_steps
        self._transact = transact
        self._asleep: dict[Execution, None] = {}  # runs with a branch that sleeps beside another
        carry_into_threads()

    def execute(self, batch: Batch, write: Write) -> None:
        """Returns when no run of the batch is open in it: settled, waiting, handed back or lost.

        Nothing of their code runs here after that.
        """
        here.is_engine = True
        try:
            self._execute(batch, write)
        except BaseException:
            batch.interrupted = [e for e in batch.executions.values() if not e.is_over]
            raise
        finally:
            for execution in batch.executions.values():
                if execution.branches or not execution.is_over:
                    execution.close()
            self._alarm.put_away()
            self._asleep.clear()
            here.is_engine = False

    def _execute(self, batch: Batch, write: Write) -> None:
        monotonic = self._limits.monotonic
        dirty: dict[Execution, None] = {}
        transactions: list[PendingStep] = []
        for execution in batch.executions.values():
            if execution.settlement is None and not execution.is_over:
                began = monotonic()
                batch.advancing = execution, began
                moves.begin(execution)
                batch.advancing = None
                execution.busy_s += monotonic() - began
            self._start(batch, execution, transactions, dirty)
        written = monotonic()
        while True:
            if batch.is_leaving:
                self._asleep.clear()  # nothing more begins here
            if self._asleep:
                self._rouse(batch, transactions, dirty)
            self._run_sync(batch, dirty, written)
            self._collect(batch, dirty, 0.0)
            if transactions and not batch.is_leaving:
                steps, transactions = transactions, []
                for execution in self._transact(batch, steps):
                    self._start(batch, execution, transactions, dirty)
            if batch.is_leaving:
                self._leave(batch, transactions, dirty)
            if dirty:
                ready = [e for e in dirty if not e.is_over]
                dirty = {}
                batch.lost.update(write(ready))
                written = monotonic()
                for execution in ready:
                    self._start(batch, execution, transactions, dirty)
            elif batch.flying:
                self._collect(batch, dirty, self._nap_s())
            elif not batch.has_turns() and not transactions:
                return

    def _start(
        self,
        batch: Batch,
        execution: Execution,
        transactions: list[PendingStep],
        dirty: dict[Execution, None],
    ) -> None:
        """Start what the run may start now, or see that it must be written first."""
        if execution.is_over:
            return
        todo: list[PendingStep] = []
        flying: list[PendingStep] = []
        for step in moves.runnable(execution):
            kind = step.call.step
            if kind.is_transactional:
                transactions.append(step)
            elif kind.is_async:
                flying.append(step)
            else:
                todo.append(step)
        if todo:
            batch.add(execution, todo)
        if flying:
            batch.flying.update(dict.fromkeys(flying))
            self._async_steps.start(batch, flying)
        if execution.has_news:
            dirty[execution] = None
        if execution.wakes and execution.in_flight:
            self._asleep[execution] = None

    def _rouse(
        self, batch: Batch, transactions: list[PendingStep], dirty: dict[Execution, None]
    ) -> None:
        """Branches that have slept or backed off long enough go on beside what is in flight."""
        for execution in tuple(self._asleep):
            now = self._limits.monotonic()
            is_in_flight = execution.in_flight and execution.wakes
            if not is_in_flight or not execution.may_begin(now):
                del self._asleep[execution]  # whoever lands, or writes, decides what becomes of it
            elif execution.wakes[0][0] <= now:
                batch.advancing = execution, now
                moves.rouse(execution, now)
                batch.advancing = None
                execution.busy_s += self._limits.monotonic() - now
                self._start(batch, execution, transactions, dirty)

    def _nap_s(self) -> float:
        """How long to wait for steps in flight before the next look at what sleeps."""
        if not self._asleep:
            return _NAP_S
        first = min((e.wakes[0][0] for e in self._asleep if e.wakes), default=0.0)
        return min(_NAP_S, max(0.0, first - self._limits.monotonic()))

    def _run_sync(self, batch: Batch, dirty: dict[Execution, None], written: float) -> None:
        limits = self._limits
        now = limits.monotonic()
        while (step := batch.next_step(now)) is not None:
            now = self._land(batch, *run_sync(step, batch, self._alarm), dirty)
            if batch.flying:
                self._collect(batch, dirty, 0.0)
                now = limits.monotonic()
            if now - written >= limits.journal_write_s:
                break
        while batch.refused:
            self._withdraw(batch, batch.refused.pop(), dirty)

    def _withdraw(self, batch: Batch, execution: Execution, dirty: dict[Execution, None]) -> None:
        """The gate is closed for this run: it is over, or waits, or ends."""
        moves.withdraw(execution)
        if execution.is_lost:
            batch.lost.add(execution.claim.run_id)
        elif execution.has_news:
            dirty[execution] = None

    def _collect(self, batch: Batch, dirty: dict[Execution, None], timeout_s: float) -> None:
        if batch.flying:
            for step, value, error in self._async_steps.finished(timeout_s):
                self._land(batch, step, value, error, dirty)

    def _land(
        self,
        batch: Batch,
        step: PendingStep,
        value: object,
        error: BaseException | None,
        dirty: dict[Execution, None],
    ) -> float:
        """A step has ended: its run goes on with that. The time after it."""
        now = self._limits.monotonic()
        if batch.flying:
            batch.landed(step)
        execution = step.execution
        if batch.executions.get(execution.claim.run_id) is not execution or execution.is_over:
            return now  # of a list before this one, or taken away meanwhile
        if execution.is_lost:
            self._withdraw(batch, execution, dirty)
            return now
        batch.advancing = execution, now
        finish(step, value, error)
        batch.advancing = None
        began, now = now if step.call.step.is_async else step.started, self._limits.monotonic()
        execution.busy_s += now - began
        dirty[execution] = None
        return now

    def _leave(
        self, batch: Batch, transactions: list[PendingStep], dirty: dict[Execution, None]
    ) -> None:
        """The worker shuts down: give back every run that is between two steps."""
        transactions.clear()
        in_flight = {step.execution for step in batch.flying}
        for execution in batch.executions.values():
            if (
                not execution.is_over
                and execution.settlement is None
                and execution not in in_flight
            ):
                execution.settle(RunState.QUEUED, wait_s=0.0)
                dirty[execution] = None
