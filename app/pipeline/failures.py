"""How a run fails, or waits for another try: the decisions, as settlements of its execution."""

import traceback as tracebacks
from typing import TYPE_CHECKING

import msgspec

from app.domain.decide import fingerprint, message_of, retry_delay_s, storable_text
from app.domain.encoding import Codec
from app.domain.flow import StepFailed
from app.domain.states import Reason, RunState
from app.domain.workflows import RetryPolicy
from app.pipeline.frames import StepTimeout
from app.store.journal import FailedAttempt

if TYPE_CHECKING:
    from app.pipeline.execution import Execution

# Where the attempts that found no matching code are counted: apart from the workflow's own ("").
DEPLOY_POSITION = "deploy"

# For a run whose workflow is not here.
NO_RETRIES = RetryPolicy(retries=0)
PLAIN = Codec(lambda: None)


def note_attempt(
    execution: "Execution",
    position: str,
    step: str,
    attempt: int,
    error: BaseException,
    delay_s: float | None,
    type_: str | None = None,
) -> FailedAttempt:
    """Keep the evidence of a failed attempt with the execution, to be written with its journal."""
    chars_max = execution.limits.error_chars_max
    type_, message = type_ or type(error).__name__, message_of(error, chars_max)
    trace = "".join(tracebacks.format_exception(error)) if error.__traceback__ else ""
    failed = FailedAttempt(
        execution.claim.run_id,
        position,
        step,
        attempt,
        type_,
        message,
        storable_text(trace, chars_max),
        fingerprint(execution.claim.workflow, step, type_, message, error.__traceback__),
        delay_s,
    )
    execution.failed_attempts.append(failed)
    return failed


def fail_workflow(execution: "Execution", error: BaseException) -> None:
    """The workflow raised: a step's failure ends the run, an error of its own may be retried."""
    if isinstance(error, StepFailed):
        is_timeout = error.type == StepTimeout.__name__
        execution.settle(
            RunState.FAILED,
            reason=Reason.TIMEOUT if is_timeout else Reason.ERROR,
            outcome=error_text(error.type, error.message),
            fingerprint=getattr(error, "fingerprint", None)
            or fingerprint(execution.claim.workflow, error.step, error.type, error.message, None),
            failed_step=error.step,
        )
        return
    policy, attempt = execution.workflow.policy, execution.failed_count("") + 1
    delay_s = retry_delay_s(
        policy, attempt, execution.limits.jitter(), is_final=policy.is_final(error)
    )
    failed = note_attempt(execution, "", "", attempt, error, delay_s)
    if delay_s is not None:
        execution.settle(RunState.WAITING, wait_s=delay_s)
    else:
        fail_with(execution, Reason.ERROR, failed)


def fail_input(execution: "Execution", error: Exception) -> None:
    """The event's data does not fit: no attempt with it can succeed."""
    failed = note_attempt(execution, "", "", execution.failed_count("") + 1, error, None)
    fail_with(execution, Reason.INVALID_INPUT, failed)


def fail_unstorable(
    execution: "Execution", step: str, position: str, attempt: int, error: Exception
) -> None:
    """A value that the run produced cannot be written."""
    failed = note_attempt(execution, position, step, attempt, error, None)
    fail_with(execution, Reason.UNSTORABLE, failed, step or None)


def time_out(execution: "Execution") -> None:
    """The run is past the limit of its workflow."""
    limit_s = execution.workflow.timeout_s
    error = StepTimeout(f"the run took longer than the {limit_s} s of its workflow")
    failed = note_attempt(execution, "", "", execution.failed_count("") + 1, error, None)
    fail_with(execution, Reason.TIMEOUT, failed)


def hold_for_deploy(execution: "Execution", reason: Reason, detail: str) -> None:
    """This code cannot go on with the run: wait for one that can; fail after the grace."""
    since, limits = execution.failures.get(DEPLOY_POSITION), execution.limits
    if since is not None and since.first_s >= limits.deploy_grace_s:
        failed = note_attempt(
            execution, DEPLOY_POSITION, "", since.count + 1, ValueError(detail), None, reason.value
        )
        fail_with(execution, reason, failed)
        return
    if since is None:
        note_attempt(
            execution,
            DEPLOY_POSITION,
            "",
            1,
            ValueError(detail),
            limits.deploy_backoff_s,
            reason.value,
        )
    execution.settle(RunState.WAITING, wait_s=limits.deploy_backoff_s)


def fail_with(
    execution: "Execution", reason: Reason, failed: FailedAttempt, step: str | None = None
) -> None:
    """Settle as failed for the reason that `failed` shows."""
    execution.settle(
        RunState.FAILED,
        reason=reason,
        outcome=error_text(failed.type, failed.message),
        fingerprint=failed.fingerprint,
        failed_step=step,
    )


def error_text(type_: str, message: str, fingerprint_: str | None = None) -> str:
    """JSON text of an error: what the journal and the outcome keep of it."""
    error = {"type": type_, "message": message}
    if fingerprint_ is not None:
        error["fingerprint"] = fingerprint_
    return msgspec.json.encode(error).decode()


def step_failed(step: str, type_: str, message: str, fingerprint_: str | None) -> StepFailed:
    """The error that the workflow sees, now and after a crash."""
    failed = StepFailed(step, type_, message)
    failed.fingerprint = fingerprint_
    return failed
