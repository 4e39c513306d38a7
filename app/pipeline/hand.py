"""The runs in one child's hand, shared by the engine (main thread) and its watch."""

import threading
from collections import deque
from collections.abc import Iterable

from app.pipeline.execution import Execution
from app.pipeline.frames import PendingStep


class Hand:
    """A list being executed under one token. Taking a step out of `todo` begins its run."""

    def __init__(self, token: str, executions: Iterable[Execution]) -> None:
        self.token = token
        self.executions = {e.claim.run_id: e for e in executions}
        self.lock = threading.Lock()
        self.todo: deque[PendingStep] = deque()
        self.flying: dict[PendingStep, None] = {}
        self.current: PendingStep | None = None
        self.advancing: tuple[Execution, float] | None = None
        self.is_leaving = False
        self.lost: set[str] = set()

    def next_step(self) -> PendingStep | None:
        """The next sync step to run now; its run has begun."""
        with self.lock:
            if self.is_leaving or not self.todo:
                return None
            step = self.todo.popleft()
            step.execution.has_begun = True
            return step

    def add(self, steps: list[PendingStep]) -> None:
        """More sync steps to run."""
        with self.lock:
            self.todo.extend(steps)

    def take_not_begun(self) -> list[str]:
        """Take the runs of which no step has begun out of the hand; their ids."""
        with self.lock:
            taken = {s.execution.claim.run_id for s in self.todo if not s.execution.has_begun}
            self.todo = deque(s for s in self.todo if s.execution.has_begun)
            for run_id in taken:
                self.executions[run_id].is_over = True
            return sorted(taken)

    def open_ids(self) -> list[str]:
        """The runs still in the hand, sorted."""
        return sorted(id_ for id_, e in tuple(self.executions.items()) if not e.is_over)
