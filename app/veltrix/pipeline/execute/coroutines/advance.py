"""Advance: the workflow's code is given answers until it has to wait for one.

Finished steps answer from the journal at once; what is new becomes a pending step or a pause of its
execution. A list of what is to be resumed, no recursion: a workflow may have any number of
`gather`s behind it.
"""

from collections.abc import Coroutine
from typing import Any

import msgspec

from veltrix.authoring.encoding import digest_and_json, is_other_call
from veltrix.authoring.flow import Gather, Sleep, here
from veltrix.authoring.steps import StepCall
from veltrix.pipeline.execute.coroutines import endings, forks
from veltrix.pipeline.execute.coroutines.contexts import own
from veltrix.pipeline.execute.coroutines.execution import (
    Branch,
    Execution,
    JournalMismatch,
    PendingStep,
)
from veltrix.pipeline.execute.coroutines.foreign import as_foreign, foreign_request
from veltrix.pipeline.execute.coroutines.forgotten import dropped, left_open, misused
from veltrix.pipeline.execute.journal_rows import JournalEntry

Answer = tuple[bool, Any, BaseException | None]  # answered now?, with this value, or this error
Ready = list[tuple[Branch, Any, BaseException | None]]  # branches to be resumed, the last one first

_decode = msgspec.json.Decoder().decode
_LATER: Answer = (False, None, None)
# A pause that is over but for this is over: the claim for the rest would cost more than it.
_EARLY_S = 0.005


def advance(execution: Execution, branch: Branch, value: Any, error: BaseException | None) -> None:
    """Give a branch its answer, and go on with all that can go on for it."""
    ready: Ready = [(branch, value, error)]
    while ready and execution.settlement is None:
        _resume(execution, *ready.pop(), ready)


def _resume(
    execution: Execution, branch: Branch, value: Any, error: BaseException | None, ready: Ready
) -> None:
    coroutine, run = branch.coroutine, branch.context.run
    while True:
        here.recorder = branch
        try:
            request = run(coroutine.send, value) if error is None else run(coroutine.throw, error)
        except StopIteration as stop:
            if forks.this.is_copy:
                forks.end_copy(None)
            here.recorder = None
            return _finish(execution, branch, stop.value, None, ready)
        except BaseException as raised:  # noqa: BLE001 - whatever it raises is its outcome
            forks.end_copy(raised)
            here.recorder = None
            return _finish(execution, branch, None, as_foreign(execution, raised), ready)
        if forks.this.is_copy:
            forks.end_copy(None)
        here.recorder = None
        if execution.mismatch is not None:
            return execution.end(endings.mismatch(execution, execution.mismatch))
        if execution.open_calls and (forgotten := dropped(execution.open_calls)) is not None:
            return execution.end(endings.failure(execution, forgotten))
        try:
            if type(request) is StepCall:
                is_answered, value, error = _ask_step(execution, branch, request)
            else:
                is_answered, value, error = _ask(execution, branch, request, ready)
        except JournalMismatch as mismatch:
            return execution.end(endings.mismatch(execution, str(mismatch)))
        except BaseException as raised:  # noqa: BLE001 - what it asked for cannot even be looked at
            is_answered, value, error = True, None, raised
        if not is_answered:
            return None


def _ask(execution: Execution, branch: Branch, request: Any, ready: Ready) -> Answer:
    if type(request) is Sleep:
        return _ask_sleep(execution, branch, request)
    if type(request) is Gather:
        return _ask_gather(execution, branch, request, ready)
    return True, None, foreign_request(execution, branch, request)


def _ask_step(execution: Execution, branch: Branch, call: StepCall) -> Answer:
    position = branch.next_position()
    digest, encoded = digest_and_json(call.arguments, call.keywords)
    entries = execution.entries
    entry = execution.take_entry(position, "step", call.step.name) if entries else None
    if entry is None:
        failed = execution.failures.get(position)
        step = PendingStep(execution, branch, call, position, digest, encoded)
        left_s = (failed.retry_delay_s or 0.0) - failed.last_s if failed else 0.0
        if left_s > _EARLY_S:
            execution.wake(execution.claimed + left_s, branch, step)
        else:
            execution.pending.append(step)
        return _LATER
    if is_other_call(entry.arguments_digest, digest, call.arguments, call.keywords):
        raise JournalMismatch(
            f"step {call.step.name!r} at {position} was recorded with other arguments"
        )
    if entry.error is not None:
        error = _decode(entry.error)
        parts = error["type"], error["message"], error.get("fingerprint")
        return True, None, endings.step_failed(call.step.name, *parts)
    return True, call.step.codec.recorded(entry.output or "null"), None


def _ask_sleep(execution: Execution, branch: Branch, request: Sleep) -> Answer:
    position = branch.next_position()
    entry = execution.take_entry(position, "sleep", "sleep")
    if entry is None:
        text = repr(request.seconds)
        execution.unwritten.append(
            JournalEntry(execution.claim.run_id, position, "sleep", "sleep", None, text)
        )
        execution.wake(execution.limits.monotonic() + request.seconds, branch)
        return _LATER
    left_s = float(entry.output or "0") - entry.age_s
    if left_s <= _EARLY_S:
        return True, None, None
    execution.wake(execution.claimed + left_s, branch)
    return _LATER


def _ask_gather(execution: Execution, branch: Branch, request: Gather, ready: Ready) -> Answer:
    position = branch.next_position()
    coroutines: list[Coroutine[Any, Any, Any]] = request.coroutines()
    if not coroutines:
        return True, [], None
    branch.open_branches = len(coroutines)
    branch.results = [None] * len(coroutines)
    branch.is_errors_returned = request.is_exceptions_returned
    children = [
        Branch(
            execution, coroutine, own(branch.context.copy()), f"{position}.{index}.", branch, index
        )
        for index, coroutine in enumerate(coroutines)
    ]
    execution.branches.update(dict.fromkeys(children))
    ready.extend((child, None, None) for child in reversed(children))
    return _LATER


def _finish(
    execution: Execution, branch: Branch, value: Any, error: BaseException | None, ready: Ready
) -> None:
    """A branch has ended: the run with it, or its parent goes on with the last of its branches."""
    if execution.mismatch is not None:
        return execution.end(endings.mismatch(execution, execution.mismatch))
    del execution.branches[branch]
    parent = branch.parent
    if parent is None:
        calls = execution.open_calls
        if calls and not execution.entries:  # a mismatch is said as such
            error = left_open(calls) if error is None else misused(calls, error)
        if error is None:
            execution.end(endings.success(execution, value))
        else:
            execution.end(endings.failure(execution, error))
        return None
    if error is None:
        parent.results[branch.index] = value
    else:
        parent.errors[branch.index] = error
    parent.open_branches -= 1
    if parent.open_branches:
        return None
    results, errors = parent.results, parent.errors
    parent.results, parent.errors = [], {}
    if errors and not parent.is_errors_returned:
        return ready.append((parent, None, errors[min(errors)]))
    for index, returned in errors.items():
        results[index] = returned
    return ready.append((parent, results, None))
