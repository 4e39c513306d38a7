"""Execute: advance all runs of a list together, until each is settled or handed back.

Whatever has finished since the last write is written and resumed; nobody waits for a round. The
journal is written when no sync step is left to run, and at the latest `journal_write_s` after the
last write, so a crash repeats at most the steps of that time, or one step.
"""

from collections.abc import Callable, Iterable

from app.domain.states import RunState
from app.pipeline.execution import Execution
from app.pipeline.frames import Limits, PendingStep
from app.pipeline.hand import Hand
from app.pipeline.steps import Alarm, AsyncSteps, finish, run_sync

Write = Callable[[list[Execution]], list[str]]
Transact = Callable[[Hand, list[PendingStep]], list[Execution]]


class Engine:
    """Executes lists, one at a time, in the main thread of a child."""

    def __init__(
        self, limits: Limits, alarm: Alarm, async_steps: AsyncSteps, transact: Transact
    ) -> None:
        self._limits, self._alarm, self._async_steps = limits, alarm, async_steps
        self._transact = transact

    def execute(self, hand: Hand, write: Write) -> None:
        """Returns when no run of the hand is open in it: settled, waiting, handed back or lost."""
        monotonic = self._limits.monotonic
        dirty: dict[Execution, None] = {}
        transactions: list[PendingStep] = []
        for execution in hand.executions.values():
            if execution.settlement is None:
                began = monotonic()
                hand.advancing = execution, began
                execution.begin()
                hand.advancing = None
                execution.busy_s += monotonic() - began
            self._start(hand, execution, transactions, dirty)
        written = monotonic()
        while True:
            self._run_sync(hand, dirty, written)
            self._collect(hand, dirty, 0.0)
            if transactions and not hand.todo and not hand.is_leaving:
                steps, transactions = transactions, []
                for execution in self._transact(hand, steps):
                    self._start(hand, execution, transactions, dirty)
            if hand.is_leaving:
                self._leave(hand, transactions, dirty)
            if dirty:
                ready = [e for e in dirty if not e.is_over]
                dirty = {}
                hand.lost.update(write(ready))
                written = monotonic()
                for execution in ready:
                    self._start(hand, execution, transactions, dirty)
            elif hand.flying:
                self._collect(hand, dirty, 0.1)
            elif not hand.todo and not transactions:
                return

    def _start(
        self,
        hand: Hand,
        execution: Execution,
        transactions: list[PendingStep],
        dirty: dict[Execution, None],
    ) -> None:
        """Start what the run may start now, or see that it must be written first."""
        if execution.is_over:
            return
        todo: list[PendingStep] = []
        flying: list[PendingStep] = []
        for step in execution.runnable():
            kind = step.call.step
            if kind.is_transactional:
                transactions.append(step)
            elif kind.is_async:
                flying.append(step)
            else:
                todo.append(step)
        if todo:
            hand.add(todo)
        if flying:
            hand.flying.update(dict.fromkeys(flying))
            self._async_steps.start(flying)
        if execution.has_news:
            dirty[execution] = None

    def _run_sync(self, hand: Hand, dirty: dict[Execution, None], written: float) -> None:
        limits = self._limits
        while (step := hand.next_step()) is not None:
            finished = run_sync(step, hand, self._alarm, limits.monotonic)
            self._finish(hand, [finished], dirty)
            if hand.flying:
                self._collect(hand, dirty, 0.0)
            if limits.monotonic() - written >= limits.journal_write_s:
                return

    def _collect(self, hand: Hand, dirty: dict[Execution, None], timeout_s: float) -> None:
        if hand.flying:
            self._finish(hand, self._async_steps.finished(timeout_s), dirty)

    def _finish(
        self,
        hand: Hand,
        finished: Iterable[tuple[PendingStep, object, BaseException | None]],
        dirty: dict[Execution, None],
    ) -> None:
        for step, value, error in finished:
            hand.flying.pop(step, None)
            execution = step.execution
            if hand.executions.get(execution.claim.run_id) is not execution or execution.is_over:
                continue  # of a list before this one, or taken away meanwhile
            now = self._limits.monotonic()
            hand.advancing = execution, now
            finish(step, value, error)
            hand.advancing = None
            began = now if step.call.step.is_async else step.started
            execution.busy_s += self._limits.monotonic() - began
            dirty[execution] = None

    def _leave(
        self, hand: Hand, transactions: list[PendingStep], dirty: dict[Execution, None]
    ) -> None:
        """The worker shuts down: give back every run that is between two steps."""
        with hand.lock:
            hand.todo.clear()
        transactions.clear()
        in_flight = {step.execution for step in hand.flying}
        for execution in hand.executions.values():
            if (
                not execution.is_over
                and execution.settlement is None
                and execution not in in_flight
            ):
                execution.settle(RunState.QUEUED, wait_s=0.0)
                dirty[execution] = None
