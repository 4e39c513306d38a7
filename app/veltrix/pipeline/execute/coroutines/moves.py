"""What happens to a run while it is executed, called by the engine.

The workflow's code is advanced as soon as a step has finished, so that the last step's output and
the outcome are written together; but a step that it asks for starts only when everything before it
is written (`runnable`). After a crash the same code is advanced through the journal: finished steps
answer at once.
"""

from collections.abc import Coroutine
from heapq import heappop
from typing import Any

from veltrix.authoring.encoding import InvalidInput
from veltrix.authoring.flow import coroutine_of
from veltrix.domain.context import run_here
from veltrix.domain.states import Reason, RunState
from veltrix.domain.text import storable_text
from veltrix.pipeline.execute.coroutines import endings
from veltrix.pipeline.execute.coroutines.advance import advance
from veltrix.pipeline.execute.coroutines.contexts import fresh
from veltrix.pipeline.execute.coroutines.event_input import event_of
from veltrix.pipeline.execute.coroutines.execution import Branch, Execution, PendingStep
from veltrix.pipeline.execute.coroutines.retry import retry_delay_s


def begin(execution: Execution) -> None:
    """Check the input and advance the workflow to its first requests."""
    if execution.is_cancel_requested:
        return execution.settle(RunState.CANCELLED, reason=Reason.REQUESTED)
    if execution.deadline is not None and execution.is_late(execution.limits.monotonic()):
        return execution.end(endings.timeout(execution))
    context = fresh()
    try:
        coroutine = context.run(_open, execution)
    except InvalidInput as error:
        return execution.end(endings.invalid_input(execution, error))
    except BaseException as error:  # noqa: BLE001 - the author's predicates may raise anything
        return execution.end(endings.failure(execution, error))
    if coroutine is None:
        return execution.settle(RunState.SUCCEEDED, reason=Reason.SKIPPED)
    root = Branch(execution, coroutine, context)
    execution.branches[root] = None
    advance(execution, root, None, None)
    _rest(execution)
    return None


def _open(execution: Execution) -> Coroutine[Any, Any, Any] | None:
    """The workflow's coroutine; None if its `when` says that there is nothing to do."""
    run_here.set(execution.claim)
    workflow = execution.workflow
    event = event_of(execution.claim, workflow)
    if workflow.key is not None:
        key = workflow.key(event)
        execution.key = None if key is None else storable_text(str(key), 1_000)
    if workflow.when is not None and not execution.has_run and not workflow.when(event):
        return None
    return coroutine_of(workflow.function(event))


def finish_step(step: PendingStep, value: Any, text: str) -> None:
    """A step's output is known: record its JSON `text`, advance with `value`."""
    execution = step.execution
    execution.in_flight -= 1
    execution.unwritten.append(step.entry(text, None))
    advance(execution, step.branch, value, None)
    _rest(execution)


def fail_step(step: PendingStep, error: BaseException) -> None:
    """An attempt failed: record it; then wait for the next one, or let the workflow know."""
    execution = step.execution
    policy = step.call.step.policy
    delay_s = retry_delay_s(
        policy, step.tries, execution.limits.jitter(), is_final=policy.is_final(error)
    )
    end_attempt(step, error, delay_s)


def end_attempt(
    step: PendingStep,
    error: BaseException,
    delay_s: float | None,
    *,
    is_next: bool = False,
) -> None:
    """An attempt failed, and the next follows in `delay_s`; None: none follows.

    `is_next`: the next one is made here, as soon as this one is written.
    """
    execution = step.execution
    execution.in_flight -= 1
    failed = endings.failed_attempt(step, error, delay_s)
    execution.note(failed)
    if is_next:
        execution.pending.append(step.again())
    elif delay_s is not None:
        execution.wake(execution.limits.monotonic() + delay_s, step.branch, step.again())
    else:
        parts = failed.type, failed.message, failed.fingerprint
        execution.unwritten.append(step.entry(None, endings.error_text(*parts)))
        raised = endings.step_failed(step.call.step.name, *parts)
        advance(execution, step.branch, None, raised)
    _rest(execution)


def rouse(execution: Execution, now: float) -> None:
    """Beside what is in flight, go on with what has slept or backed off long enough."""
    while execution.wakes and execution.wakes[0][0] <= now and execution.may_begin(now):
        _, _, branch, step = heappop(execution.wakes)
        if step is not None:
            execution.pending.append(step)
        else:
            advance(execution, branch, None, None)


def fail_unstorable(step: PendingStep, error: Exception) -> None:
    """The step's output cannot be kept: the run fails with that reason."""
    execution = step.execution
    execution.in_flight -= 1
    execution.end(endings.unstorable(execution, error, step))


def runnable(execution: Execution) -> list[PendingStep]:
    """The steps to be given now: none while something before them is not written."""
    if execution.has_news or not execution.pending:
        return []
    now = execution.limits.monotonic()
    if not execution.may_begin(now):
        withdraw(execution)
        return []
    steps, execution.pending = execution.pending, []
    for step in steps:
        step.given = now
        if execution.deadline is not None:
            step.limit_s = execution.limit_of(step, now)
    execution.in_flight += len(steps)
    return steps


def withdraw(execution: Execution, refused: int = 0) -> None:
    """None of its steps that have not begun does so here; decide how the run waits or ends.

    `refused` are those given that were refused at the gate.
    """
    execution.in_flight -= refused + len(execution.todo)
    execution.todo.clear()
    execution.pending = []
    if execution.is_lost:
        execution.close()
    elif not execution.is_over:
        execution.is_returned = execution.is_returned or execution.may_begin(
            execution.limits.monotonic()
        )
        _rest(execution)


def _rest(execution: Execution) -> None:
    """If nothing of the run can go on here, decide how it waits or ends."""
    if execution.settlement is not None or execution.in_flight:
        return None
    if execution.is_cancel_requested:
        return execution.settle(RunState.CANCELLED, reason=Reason.REQUESTED)
    if (
        execution.deadline is None
        and not execution.is_returned
        and (execution.pending or not execution.wakes)
    ):
        return None  # as most runs are
    now = execution.limits.monotonic()
    if execution.is_late(now):
        execution.end(endings.timeout(execution))
    elif execution.is_returned:
        execution.settle(RunState.QUEUED, wait_s=0.0)
    elif not execution.pending and execution.wakes:
        wake = execution.wakes[0][0]
        if execution.deadline is not None:
            wake = min(wake, execution.deadline)
        execution.settle(RunState.WAITING, wait_s=max(0.0, wake - now))
    return None
