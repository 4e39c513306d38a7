"""What a worker says of failures once they are durable: a line each, with the run and the error.

The database has all of it, with the traceback; a line is for whoever watches a terminal.
"""

from typing import TYPE_CHECKING

import msgspec

from veltrix.domain.places import DEPLOY_POSITION
from veltrix.domain.states import Reason, RunState
from veltrix.telemetry import logger

if TYPE_CHECKING:
    from veltrix.pipeline.execute.coroutines.execution import Execution
    from veltrix.pipeline.execute.journal_rows import FailedAttempt, Settlement

ERROR_CHARS_MAX = 500

_log = logger("worker")


class _Error(msgspec.Struct):
    """An outcome that is one."""

    type: str
    message: str


_decode = msgspec.json.Decoder(_Error).decode


def say_failures(execution: "Execution") -> None:
    """Its failed attempts that are written now, and its end, if it failed."""
    settlement = execution.settlement
    has_failed = settlement is not None and settlement.state == RunState.FAILED
    if not (execution.failed_attempts or has_failed):
        return
    claim = execution.claim
    log = _log.bind(run_id=claim.run_id, event_id=claim.event_id, workflow=claim.workflow)
    for failed in execution.failed_attempts:
        if failed.position == DEPLOY_POSITION:
            log.warning("run.mismatched", **_attempt(failed, failed.message))
        elif failed.step:
            error = f"{failed.type}: {failed.message}"
            log.warning("step.failed", step=failed.step, **_attempt(failed, error))
        elif failed.retry_delay_s is not None:  # the last one is told as the run's own
            log.warning("workflow.failed", **_attempt(failed, f"{failed.type}: {failed.message}"))
    if settlement is not None and has_failed:
        log.error(
            "run.failed",
            reason=settlement.reason or Reason.ERROR,
            **({"step": settlement.failed_step} if settlement.failed_step else {}),
            error=_error_of(settlement),
        )


def _attempt(failed: "FailedAttempt", error: str) -> dict[str, object]:
    said: dict[str, object] = {"attempt": failed.attempt}
    if failed.retry_delay_s is not None:
        said["next_in_s"] = round(failed.retry_delay_s, 3)
    return said | {"error": error[:ERROR_CHARS_MAX]}


def _error_of(settlement: "Settlement") -> str:
    error = _decode(settlement.outcome or b'{"type":"","message":""}')
    return f"{error.type}: {error.message}"[:ERROR_CHARS_MAX]
