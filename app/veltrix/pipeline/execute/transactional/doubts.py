"""Which transactional steps are not run without a savepoint for a while: one of them failed."""

from collections.abc import Iterable

from veltrix.pipeline.execute.coroutines.execution import PendingStep

_FIRST, _MAX = 4, 256  # transactions with savepoints, before it is tried without again


class Doubts:
    """By name of the step: each that was not a simple success costs all that ran with it a run."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}  # transactions until it is trusted again
        self._last: dict[str, int] = {}  # how many they were

    def is_trusted(self, step: PendingStep) -> bool:
        """It may be run without a savepoint."""
        return not self._left.get(step.call.step.name)

    def doubt(self, steps: Iterable[PendingStep]) -> None:
        """One of these was not simple, nobody knows which if there are more."""
        for name in _names(steps):
            last = self._last.get(name, 0)
            self._left[name] = self._last[name] = min(_MAX, 2 * last) or _FIRST

    def trust(self, steps: Iterable[PendingStep]) -> None:
        """All of these were simple."""
        for name in _names(steps):
            self._last.pop(name, None)

    def pass_by(self, steps: Iterable[PendingStep]) -> None:
        """These were run with savepoints."""
        for name in _names(steps):
            if self._left.get(name):
                self._left[name] -= 1


def _names(steps: Iterable[PendingStep]) -> set[str]:
    return {step.call.step.name for step in steps}
