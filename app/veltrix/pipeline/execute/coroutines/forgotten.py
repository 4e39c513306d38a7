"""What a workflow called and forgot to await is told to its author by place, at once and for good.

A run knows its open calls: made by its code, and not awaited so far. One that nobody holds can be
awaited by nobody; one that is open when the workflow returns was not awaited either.
"""

from sys import getrefcount
from types import CodeType
from typing import Any

from veltrix.authoring.code import name_of
from veltrix.authoring.flow import Gather, NonRetryable, OpenCalls, Sleep, type_and_message
from veltrix.authoring.steps import StepCall

_TYPES = (StepCall.__name__, Gather.__name__, Sleep.__name__)


class ForgottenAwait(NonRetryable, TypeError):
    """A workflow called a step, `gather` or `sleep` and forgot it; no attempt can succeed."""


def dropped(calls: OpenCalls) -> ForgottenAwait | None:
    """What to say of an open call that nobody holds any more; None: each may still be awaited."""
    for call in calls:
        if getrefcount(call) <= _UNHELD:
            return _forgotten(calls)
    return None


def left_open(calls: OpenCalls) -> ForgottenAwait:
    """What to say of the calls that are open at the end. There is one at least."""
    return _forgotten(calls)


def misused(calls: OpenCalls, raised: BaseException) -> BaseException:
    """`raised`; or, if an open call was used as if it were its result, what its author should know.

    As in `order = load(1)`, `order["id"]`: "'StepCall' object is not subscriptable".
    """
    if not isinstance(raised, TypeError | AttributeError):
        return raised
    said = type_and_message(raised)[1]
    if not any(f"'{name}'" in said for name in _TYPES):
        return raised
    forgotten = _forgotten(calls)
    forgotten.__cause__ = raised
    return forgotten.with_traceback(raised.__traceback__)


def _forgotten(calls: OpenCalls) -> ForgottenAwait:
    # The call of a step that a forgotten `gather` has is right as it is.
    call = next((one for one in calls if type(one) is Gather), next(iter(calls)))
    code, instruction = calls[call]
    where = f"{code.co_filename.rpartition('/')[2]}:{_line_of(code, instruction)}"
    if type(call) is StepCall:
        what, name = f"step {call.step.name!r}", name_of(call.step.function)
    else:
        name = type(call).__name__.lower()
        what = f"{name}()"
    return ForgottenAwait(
        f"{what} was called in {where} and never awaited: it did not run; write `await {name}(...)`"
    )


def _line_of(code: CodeType, instruction: int) -> int:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def _count_unheld() -> int:
    """What `getrefcount` says above of what only the dict holds: Pythons differ in it."""
    calls: dict[Any, None] = {object(): None}
    for call in calls:
        return getrefcount(call)
    raise AssertionError


_UNHELD = _count_unheld()
