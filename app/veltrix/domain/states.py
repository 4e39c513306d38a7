"""The states of a run, why it ended, and from where it goes on."""

from enum import StrEnum


class RunState(StrEnum):
    """`queued -> running -> succeeded | failed | cancelled`, and `waiting`, which holds no worker.

    `queued` may be claimed at any time, `waiting` may not. Open runs have a `due_at`; only running
    ones have a lease token. The table `runs` enforces both.
    """

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = frozenset({RunState.QUEUED, RunState.RUNNING, RunState.WAITING})
SETTLED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class ReplayMode(StrEnum):
    """From where a failed run goes on in its next generation."""

    FAILED_STEP = "failed_step"  # what finished before it gives its recorded output
    BEGINNING = "beginning"  # every step runs again


class Reason(StrEnum):
    """Why a run ended other than by the plain return of its workflow."""

    ERROR = "error"  # a step or the workflow raised and no attempt is left
    TIMEOUT = "timeout"  # the last attempt of a step, or the run, exceeded its limit
    INVALID_INPUT = "invalid_input"  # the event's data does not fit the workflow's input type
    UNSTORABLE = "unstorable"  # an output or outcome cannot be written as JSON
    JOURNAL_MISMATCH = "journal_mismatch"  # the code no longer follows the journal
    UNKNOWN_WORKFLOW = "unknown_workflow"  # no worker knew the workflow within the deploy grace
    POISON = "poison"  # the worker died three times with this run alone in its hand
    SKIPPED = "skipped"  # the workflow's `when` said no: succeeded without a step
    REQUESTED = "requested"  # cancelled by an operator or a caller
