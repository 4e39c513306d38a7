"""Sabotages of history that leaves."""

from functools import wraps
from typing import Any

from veltrix.prove.sabotage.swaps import Saboteur, nothing, replace


def open_runs_dropped() -> None:
    """A day leaves as a whole, whatever is open or failed in it."""

    def all_leave(judge: Any) -> Any:
        @wraps(judge)
        def judged(tx: Any, part: Any, policies: Any, now: Any) -> Any:
            found = judge(tx, part, policies, now)
            return type(found)(found.part, found.leaving + found.staying, 0)

        return judged

    drop, rows = "veltrix.operations.retention.drop", "veltrix.operations.retention.drop_rows"
    replace(drop, "_judge", all_leave)
    replace(rows, "copy", nothing(0))
    replace(rows, "undone", nothing([]))
    replace(rows, "take_touched", nothing([]))


SABOTAGES: dict[str, Saboteur] = {open_runs_dropped.__name__: open_runs_dropped}
