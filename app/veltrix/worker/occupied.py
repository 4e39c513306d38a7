"""How long a run of each workflow occupies a worker child, as measured lately.

Only what the run itself takes: its workflow's code, its sync and its transactional steps. The claim
and the write of its list are not in it: they cost the same for one run as for many, and counted per
run they would make the lists of a busy machine ever smaller and so ever dearer.
"""

from collections.abc import Iterable, Mapping

from veltrix.pipeline.execute.coroutines.execution import Execution

_KEPT = 0.8  # of what is known, whenever something new is measured


class Occupied:
    """A mean per workflow in which later lists count more, and long lists more than short ones."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[float, float]] = {}  # workflow -> (seconds, runs)

    def note(self, measured: Mapping[str, tuple[float, int]]) -> None:
        """A list is done: by workflow, the seconds its runs took and how many they were."""
        for workflow, (seconds, runs) in measured.items():
            seconds_before, runs_before = self._of.get(workflow, (0.0, 0.0))
            self._of[workflow] = (seconds_before * _KEPT + seconds, runs_before * _KEPT + runs)

    def of(self, workflow: str) -> float | None:
        """Seconds per run; None: nobody has measured it yet."""
        known = self._of.get(workflow)
        return None if known is None else known[0] / known[1]

    def means(self) -> dict[str, float]:
        """Seconds per run of every measured workflow. For any thread."""
        return {workflow: seconds / runs for workflow, (seconds, runs) in tuple(self._of.items())}


def occupied_by(executions: Iterable[Execution]) -> dict[str, tuple[float, int]]:
    """By workflow: how long its runs kept the child busy, and how many they were."""
    found: dict[str, tuple[float, int]] = {}
    for execution in executions:
        if execution.busy_s > 0:  # of the others nothing was run
            seconds, runs = found.get(execution.claim.workflow, (0.0, 0))
            found[execution.claim.workflow] = (seconds + execution.busy_s, runs + 1)
    return found
