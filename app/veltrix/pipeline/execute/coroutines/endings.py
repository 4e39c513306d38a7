"""What becomes of a run: decided purely, as values that its execution applies (`Execution.end`).

Nothing here changes an execution: asked again, it gives the same ending. Time and chance are those
of its limits.
"""

from typing import Any

import msgspec

from veltrix.authoring.encoding import Codec, Unstorable, encode
from veltrix.authoring.flow import StepFailed
from veltrix.authoring.steps import RetryPolicy
from veltrix.domain.places import DEPLOY_POSITION
from veltrix.domain.states import Reason, RunState
from veltrix.domain.text import storable_text
from veltrix.pipeline.execute.coroutines.execution import (
    Ending,
    Execution,
    PendingStep,
    StepTimeout,
)
from veltrix.pipeline.execute.coroutines.retry import described, fingerprint, retry_delay_s
from veltrix.pipeline.execute.journal_rows import FailedAttempt

GRACES_MAX = 10  # of versions one after the other, so that no run waits for ever between two

# For a run whose workflow is not here.
NO_RETRIES = RetryPolicy(retries=0)
PLAIN = Codec(lambda: None)


def success(execution: Execution, value: Any) -> Ending:
    """The workflow has returned `value`: the outcome, if the journal ends here as well."""
    if execution.entries:
        first = min(execution.entries)
        return mismatch(execution, f"the workflow ended, but the journal goes on at {first}")
    try:
        outcome = encode(value, execution.limits.output_bytes_max)
    except Unstorable as error:
        return unstorable(execution, error)
    settlement = execution.settlement_of(RunState.SUCCEEDED)
    settlement.outcome = outcome
    return Ending(settlement)


def failure(execution: Execution, error: BaseException) -> Ending:
    """The workflow raised: a step's failure ends the run, an error of its own may be retried."""
    if issubclass(type(error), StepFailed):
        return _failure_of_step(execution, error)
    policy, past = execution.workflow.policy, execution.failures.get("")
    tries = past.count + 1 - past.crashes if past else 1
    delay_s = retry_delay_s(
        policy, tries, execution.limits.jitter(), is_final=policy.is_final(error)
    )
    if delay_s is None:
        return _failed(execution, Reason.ERROR, _attempt_of_run(execution, error))
    waits = execution.settlement_of(RunState.WAITING, wait_s=delay_s)
    return Ending(waits, _attempt_of_run(execution, error, delay_s))


def _failure_of_step(execution: Execution, error: BaseException) -> Ending:
    """The workflow let a step's failure go: nothing is tried again."""
    step, type_, message = (
        storable_text(_attribute(error, name), execution.limits.error_chars_max)
        for name in ("step", "type", "message")
    )
    reason = Reason.TIMEOUT if type_ == StepTimeout.__name__ else Reason.ERROR
    settlement = execution.settlement_of(RunState.FAILED, reason=reason)
    settlement.outcome, settlement.failed_step = error_text(type_, message), step
    settlement.fingerprint = _attribute(error, "fingerprint") or fingerprint(
        execution.claim.workflow, step, type_, message, None
    )
    return Ending(settlement)


def _attribute(error: BaseException, name: str) -> str:
    """Its text, or nothing, whatever an author's subclass makes of it."""
    try:
        found = getattr(error, name)
        return "" if found is None else str(found)
    except BaseException:  # noqa: BLE001 - a subclass may raise anything
        return ""


def invalid_input(execution: Execution, error: Exception) -> Ending:
    """The event's data does not fit: no attempt with it can succeed."""
    return _failed(execution, Reason.INVALID_INPUT, _attempt_of_run(execution, error))


def timeout(execution: Execution) -> Ending:
    """The run is past the limit of its workflow."""
    limit_s = execution.workflow.timeout_s
    error = StepTimeout(f"the run took longer than the {limit_s:g} s of its workflow")
    return _failed(execution, Reason.TIMEOUT, _attempt_of_run(execution, error))


def unstorable(execution: Execution, error: Exception, step: PendingStep | None = None) -> Ending:
    """A value that the run produced, or this step of it, cannot be written."""
    if step is None:
        return _failed(execution, Reason.UNSTORABLE, _attempt_of_run(execution, error))
    failed = failed_attempt(step, error, None)
    return _failed(execution, Reason.UNSTORABLE, failed, step.call.step.name)


def unwritable(execution: Execution, error: Exception) -> Ending:
    """What the run has to write cannot be written: nothing of it is, but this."""
    cause = ValueError(f"its journal cannot be written: {type(error).__name__}")
    return msgspec.structs.replace(unstorable(execution, cause), is_alone=True)


def overrun(step: PendingStep) -> Ending:
    """The attempt failed as a time-out; if it was the last, the workflow hears so in another."""
    execution, policy, late = step.execution, step.call.step.policy, overran(step.limit_s)
    delay_s = retry_delay_s(
        policy, step.tries, execution.limits.jitter(), is_final=policy.is_final(late)
    )
    failed = failed_attempt(step, late, delay_s)
    if delay_s is not None:
        return Ending(execution.settlement_of(RunState.WAITING, wait_s=delay_s), failed)
    error = error_text(failed.type, failed.message, failed.fingerprint)
    goes_on = execution.settlement_of(RunState.QUEUED, wait_s=0.0)
    return Ending(goes_on, failed, step.entry(None, error))


def overran(limit_s: float) -> StepTimeout:
    """What is said of code that kept its child for longer than its limit, and was ended with it."""
    return StepTimeout(f"it overran its limit of {limit_s:g} s and its worker child was ended")


def mismatch(execution: Execution, detail: str) -> Ending:
    """The journal and the code disagree: never guess, write nothing of this attempt."""
    ending = deploy_awaited(execution, Reason.JOURNAL_MISMATCH, detail)
    return msgspec.structs.replace(ending, is_alone=True)


def deploy_awaited(execution: Execution, reason: Reason, detail: str) -> Ending:
    """This code cannot go on with the run: wait for one that can; fail after the grace.

    The grace counts per deploy: from the first time since the run made progress, and anew for each
    other version that cannot go on with it, a few times.
    """
    since, limits = execution.failures.get(DEPLOY_POSITION), execution.limits
    is_other_code = execution.claim.code_version != execution.code_version
    if since is not None and (
        since.first_s >= limits.deploy_grace_s * GRACES_MAX
        or (since.last_s >= limits.deploy_grace_s and not is_other_code)
    ):
        return _failed(execution, reason, _attempt_of_deploy(execution, reason, detail, None))
    failed = None
    if since is None or is_other_code:
        failed = _attempt_of_deploy(execution, reason, detail, limits.deploy_backoff_s)
    waits = execution.settlement_of(RunState.WAITING, wait_s=limits.deploy_backoff_s)
    return Ending(waits, failed)


def _failed(
    execution: Execution, reason: Reason, failed: FailedAttempt, step: str | None = None
) -> Ending:
    """For the reason that `failed` shows."""
    settlement = execution.settlement_of(RunState.FAILED, reason=reason)
    settlement.outcome = error_text(failed.type, failed.message)
    settlement.fingerprint, settlement.failed_step = failed.fingerprint, step
    return Ending(settlement, failed)


# The evidence of failed attempts


def failed_attempt(step: PendingStep, error: BaseException, delay_s: float | None) -> FailedAttempt:
    """Of a step: what it raised, when it began, with what, and when the next attempt follows."""
    execution, name = step.execution, step.call.step.name
    claim, chars_max = execution.claim, execution.limits.error_chars_max
    said = described(error, claim.workflow, name, chars_max)
    failed = FailedAttempt(claim.run_id, step.position, name, step.attempt, *said, delay_s)
    step.mark(failed)
    return failed


def _attempt_of_run(
    execution: Execution, error: BaseException, delay_s: float | None = None
) -> FailedAttempt:
    claim, chars_max = execution.claim, execution.limits.error_chars_max
    said = described(error, claim.workflow, "", chars_max)
    return FailedAttempt(claim.run_id, "", "", execution.failed_count("") + 1, *said, delay_s)


def _attempt_of_deploy(
    execution: Execution, reason: Reason, detail: str, delay_s: float | None
) -> FailedAttempt:
    claim, chars_max = execution.claim, execution.limits.error_chars_max
    said = described(ValueError(detail), claim.workflow, "", chars_max, reason.value)
    attempt = execution.failed_count(DEPLOY_POSITION) + 1
    return FailedAttempt(claim.run_id, DEPLOY_POSITION, "", attempt, *said, delay_s)


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
