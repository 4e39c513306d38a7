"""How a run fails, or waits for another try: the decisions, as settlements of its execution."""

from typing import Any

import msgspec

from veltrix.authoring.encoding import Codec, Unstorable, encode
from veltrix.authoring.flow import StepFailed
from veltrix.authoring.steps import RetryPolicy
from veltrix.domain.places import DEPLOY_POSITION
from veltrix.domain.states import Reason, RunState
from veltrix.domain.text import storable_text
from veltrix.pipeline.execute.coroutines.execution import Execution, PendingStep, StepTimeout
from veltrix.pipeline.execute.coroutines.retry import described, fingerprint, retry_delay_s
from veltrix.pipeline.execute.journal_rows import FailedAttempt

GRACES_MAX = 10  # of versions one after the other, so that no run waits for ever between two

# For a run whose workflow is not here.
NO_RETRIES = RetryPolicy(retries=0)
PLAIN = Codec(lambda: None)


def note_attempt(
    execution: Execution,
    position: str,
    step: str,
    attempt: int,
    error: BaseException,
    delay_s: float | None,
    of: PendingStep | None = None,
    type_: str | None = None,
) -> FailedAttempt:
    """Keep the evidence of a failed attempt with the execution, to be written with its journal.

    `of` is the step that was attempted: when it began, and with what.
    """
    claim, chars_max = execution.claim, execution.limits.error_chars_max
    said = described(error, claim.workflow, step, chars_max, type_)
    failed = FailedAttempt(claim.run_id, position, step, attempt, *said, delay_s)
    if of is not None:
        of.mark(failed)
    execution.failed_attempts.append(failed)
    return failed


def succeed(execution: Execution, value: Any) -> None:
    """The workflow has returned `value`: the outcome, if the journal ends here as well."""
    if execution.entries:
        first = min(execution.entries)
        return mismatched(execution, f"the workflow ended, but the journal goes on at {first}")
    try:
        outcome = encode(value, execution.limits.output_bytes_max)
    except Unstorable as error:
        return fail_unstorable(execution, "", "", execution.failed_count("") + 1, error)
    return execution.settle(RunState.SUCCEEDED, outcome=outcome)


def mismatched(execution: Execution, detail: str) -> None:
    """The journal and the code disagree: never guess, write nothing of this attempt."""
    execution.unwritten, execution.failed_attempts = [], []
    hold_for_deploy(execution, Reason.JOURNAL_MISMATCH, detail)


def fail_workflow(execution: Execution, error: BaseException) -> None:
    """The workflow raised: a step's failure ends the run, an error of its own may be retried."""
    if issubclass(type(error), StepFailed):
        return _fail_of_step(execution, error)
    policy, attempt = execution.workflow.policy, execution.failed_count("") + 1
    past = execution.failures.get("")
    tries = attempt - past.crashes if past else attempt
    delay_s = retry_delay_s(
        policy, tries, execution.limits.jitter(), is_final=policy.is_final(error)
    )
    failed = note_attempt(execution, "", "", attempt, error, delay_s)
    if delay_s is not None:
        return execution.settle(RunState.WAITING, wait_s=delay_s)
    return fail_with(execution, Reason.ERROR, failed)


def _fail_of_step(execution: Execution, error: BaseException) -> None:
    """The workflow let a step's failure go: nothing is tried again."""
    step, type_, message = (
        storable_text(_attribute(error, name), execution.limits.error_chars_max)
        for name in ("step", "type", "message")
    )
    execution.settle(
        RunState.FAILED,
        reason=Reason.TIMEOUT if type_ == StepTimeout.__name__ else Reason.ERROR,
        outcome=error_text(type_, message),
        fingerprint=_attribute(error, "fingerprint")
        or fingerprint(execution.claim.workflow, step, type_, message, None),
        failed_step=step,
    )


def _attribute(error: BaseException, name: str) -> str:
    """Its text, or nothing, whatever an author's subclass makes of it."""
    try:
        found = getattr(error, name)
        return "" if found is None else str(found)
    except BaseException:  # noqa: BLE001 - a subclass may raise anything
        return ""


def fail_input(execution: Execution, error: Exception) -> None:
    """The event's data does not fit: no attempt with it can succeed."""
    failed = note_attempt(execution, "", "", execution.failed_count("") + 1, error, None)
    fail_with(execution, Reason.INVALID_INPUT, failed)


def fail_unstorable(
    execution: Execution,
    step: str,
    position: str,
    attempt: int,
    error: Exception,
    of: PendingStep | None = None,
) -> None:
    """A value that the run produced cannot be written."""
    failed = note_attempt(execution, position, step, attempt, error, None, of)
    fail_with(execution, Reason.UNSTORABLE, failed, step or None)


def time_out(execution: Execution) -> None:
    """The run is past the limit of its workflow."""
    limit_s = execution.workflow.timeout_s
    error = StepTimeout(f"the run took longer than the {limit_s:g} s of its workflow")
    failed = note_attempt(execution, "", "", execution.failed_count("") + 1, error, None)
    fail_with(execution, Reason.TIMEOUT, failed)


def hold_for_deploy(execution: Execution, reason: Reason, detail: str) -> None:
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
        failed = note_attempt(
            execution,
            DEPLOY_POSITION,
            "",
            since.count + 1,
            ValueError(detail),
            None,
            type_=reason.value,
        )
        fail_with(execution, reason, failed)
        return
    if since is None or is_other_code:
        note_attempt(
            execution,
            DEPLOY_POSITION,
            "",
            1 if since is None else since.count + 1,
            ValueError(detail),
            limits.deploy_backoff_s,
            type_=reason.value,
        )
    execution.settle(RunState.WAITING, wait_s=limits.deploy_backoff_s)


def fail_with(
    execution: Execution, reason: Reason, failed: FailedAttempt, step: str | None = None
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
