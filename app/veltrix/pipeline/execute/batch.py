"""The runs that one child has, shared by the engine (main thread), its loop and its watch."""

import threading
from collections import deque
from collections.abc import Iterable

from veltrix.pipeline.execute.coroutines.execution import Execution, PendingStep
from veltrix.pipeline.execute.whereabouts import Untold, Whereabouts


class Batch:
    """A list being executed under a token of its own, and those of what came as claimed.

    Runs take turns: each `next_step` is of the run that has waited longest for one. Beginning a
    step and taking a run away exclude each other.
    """

    def __init__(
        self,
        token: str,
        executions: Iterable[Execution],
        whereabouts: Whereabouts = Untold(),  # noqa: B008 - it holds nothing
        handed: Iterable[str] = (),
    ) -> None:
        self.token, self.tokens = token, [token, *handed]
        self._whereabouts = whereabouts
        self.executions = {e.claim.run_id: e for e in executions}
        self.lock = threading.Lock()
        self._turns: deque[Execution] = deque()  # runs with sync steps that have not begun
        self.refused: list[Execution] = []  # at the gate, by `next_step`
        self.flying: dict[PendingStep, None] = {}
        self.current: PendingStep | None = None  # the step that the main thread runs
        self.advancing: tuple[Execution, float] | None = None
        self.is_leaving = False
        self.lost: set[str] = set()
        self.interrupted: list[Execution] = []  # that were open when the engine raised an error

    def end_current(self) -> None:
        """The main thread runs no step any more."""
        self.current = None
        self._whereabouts.end()

    def next_step(self, now: float) -> PendingStep | None:
        """The next sync step to run now; its run has begun. `now` is monotonic seconds.

        Runs whose next step may not begin are put into `refused` instead.
        """
        with self.lock:
            while self._turns and not self.is_leaving:
                execution = self._turns.popleft()
                if not execution.todo:
                    continue
                if not execution.may_begin(now):
                    self.refused.append(execution)
                    continue
                step = execution.todo.pop()
                if execution.todo:
                    self._turns.append(execution)
                return self._begun(step, now)
        return None

    def begin(self, step: PendingStep, now: float) -> bool:
        """Whether this step, of any kind, may begin now; then its run has begun. For any thread."""
        with self.lock:
            if self.is_leaving or not step.execution.may_begin(now):
                return False
            self._begun(step, now)
            return True

    def _begun(self, step: PendingStep, now: float) -> PendingStep:
        execution = step.execution
        execution.has_begun = True
        step.started = now
        if execution.deadline is not None:  # that is nearer than when the step was given
            step.limit_s = execution.limit_of(step, now)
        if step.call.step.is_async:
            self._whereabouts.fly(step, len(self.flying))
        else:
            self._whereabouts.begin(step)
        return step

    def landed(self, step: PendingStep) -> None:
        """The step has ended, or was refused."""
        if step in self.flying:
            with self.lock:
                del self.flying[step]
                other = next(iter(self.flying), None)
                began = other if other is not None and other.started else None
                self._whereabouts.fly(began, len(self.flying))

    def add(self, execution: Execution, steps: list[PendingStep]) -> None:
        """More sync steps of a run, which takes its turn."""
        with self.lock:
            if not execution.todo:
                self._turns.append(execution)
            execution.todo = [*reversed(steps), *execution.todo] if execution.todo else steps[::-1]

    def has_turns(self) -> bool:
        """There may be sync steps to run."""
        return bool(self._turns) and not self.is_leaving

    def take_not_begun(self) -> list[str]:
        """Take the runs of which no step has begun out of the batch; their ids."""
        with self.lock:
            taken = [
                execution
                for execution in tuple(self.executions.values())
                if not (execution.has_begun or execution.is_over or execution.has_news)
            ]
            for execution in taken:
                execution.is_over = True
            return sorted(execution.claim.run_id for execution in taken)

    def lose(self, run_ids: Iterable[str]) -> None:
        """These runs are somebody else's: no step of theirs begins here any more."""
        for run_id in run_ids:
            execution = self.executions.get(run_id)
            if execution is not None and not execution.is_over:
                execution.is_lost = True

    def open_ids(self) -> list[str]:
        """The runs still in the batch, sorted."""
        return sorted(id_ for id_, e in tuple(self.executions.items()) if not e.is_over)
