"""What properties are, and what they share: each is a function whose docstring is its promise."""

from collections.abc import Callable, Iterator

import msgspec

from veltrix.prove.check.evidence import StoredRun
from veltrix.prove.check.history import Case
from veltrix.prove.deployment.witness import CLOCKS_S, WORKER, Move
from veltrix.prove.load.expected import Expected, expected_of

__all__ = [
    "CLOCKS_S",
    "REPLAY",
    "SAMPLES_MAX",
    "SETTLED",
    "Check",
    "Property",
    "Violations",
    "expected",
    "kind_of_run",
    "look",
    "writer_of",
    "wrote",
]

Violations = Iterator[str]
Check = Callable[[Case], Violations]

SAMPLES_MAX = 5
SETTLED = frozenset({"succeeded", "failed", "cancelled"})
REPLAY = "replay"


class Property(msgspec.Struct):
    """A promise and what was found against it."""

    name: str
    promise: str
    broken: int = 0
    samples: list[str] = []
    not_checked: str = ""  # why; "": it was checked

    @property
    def is_held(self) -> bool:
        """Checked, and nothing speaks against it."""
        return not self.not_checked and self.broken == 0


def look(rule: Check, case: Case) -> Property:
    """What a property finds, counted, with samples."""
    found = Property(rule.__name__, (rule.__doc__ or "").strip().replace("\n    ", " "))
    for violation in rule(case):
        found.broken += 1
        if len(found.samples) < SAMPLES_MAX:
            found.samples = [*found.samples, violation]
    return found


def kind_of_run(run: StoredRun) -> str:
    """The kind of event that started it."""
    return run.workflow.removeprefix("prove_")


def expected(run: StoredRun) -> Expected:
    """What a run is to come to."""
    return expected_of(kind_of_run(run))


def writer_of(move: Move) -> int:
    """The process id of the worker child that wrote it; 0: another process did."""
    return move.writer


def wrote(move: Move, worker_id: str) -> bool:
    """This worker child (`node/pid`) wrote it: not one of another host with the same process id."""
    found = WORKER.match(move.application)
    node, _, pid = worker_id.rpartition("/")
    return found is not None and found[1] == pid and node.startswith(found[2] or "")
