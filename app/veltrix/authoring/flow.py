"""What a workflow awaits, and where in its run it is.

Inside a run, awaiting a step, `gather` or `sleep` yields a request to the engine, which resumes the
workflow with the recorded answer. Outside a run each of them just runs, so workflows are
unit-tested as plain code. Positions are paths: "3" is the third request of the workflow, "3.0.1"
the first request of the first branch of a `gather` at "3".
"""

import random as _random
import sys
import threading
import uuid as _uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from types import CodeType, CoroutineType
from typing import Any, Protocol

from veltrix.domain.context import step_context


class NonRetryable(Exception):
    """Raise it (or a subclass) in a step to fail it at once, whatever its retries."""


class StepFailed(Exception):
    """A step failed for good. The workflow may catch it and compensate.

    The same whether the step failed just now or long before a crash: `type` and `message` are the
    names of the last attempt's exception, as the journal keeps them. Outside a run, in unit tests,
    it is the first attempt's, and `__cause__` is the exception itself.
    """

    def __init__(self, step: str, type_: str, message: str) -> None:
        super().__init__(f"step {step!r} failed: {type_}: {message}")
        self.step, self.type, self.message = step, type_, message
        self.fingerprint: str | None = None


def type_and_message(error: BaseException) -> tuple[str, str]:
    """Names of an exception's type and its text, whatever its class does when it is asked."""
    try:
        type_ = str(type(error).__name__)
    except BaseException:  # noqa: BLE001 - a metaclass may raise anything
        type_ = "Exception"
    try:
        return type_, str(error)
    except BaseException as broken:  # noqa: BLE001 - the author's __str__ may raise anything
        return type_, f"(no message: {type(broken).__name__} in its __str__)"


# Calls of steps, `gather` and `sleep` that were made and not awaited so far, the first one first:
# by which code, at which of its instructions. The line of that is worth asking for only in trouble.
OpenCalls = dict[Any, tuple[CodeType, int]]


class Recorder(Protocol):
    """The place in a run that is being advanced now; the engine's side of `now uuid random`.

    `open_calls` are those of the whole run.
    """

    open_calls: OpenCalls

    def record(self, name: str, make: Callable[[], Any]) -> Any:
        """The value recorded at this position, or the one that `make` gives, from now on."""

    def key(self) -> str:
        """Another key at each call, the same ones whenever the code is run again."""


class OutsideRun(BaseException):
    """In a worker, something other than the engine wanted a step, `sleep` or `gather` to run.

    No Exception: code that tries again whatever happens must not go on with it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was awaited outside of its run: in a worker only the engine starts steps, and"
            " only of a run that the worker has claimed"
        )


class _Here(threading.local):
    """`recorder` is set by the engine while it advances a workflow, in its own thread only.

    None outside a run and inside steps. `is_engine`: the engine works in this thread, whether on a
    run or not. `is_closing`: what runs now belongs to a run that is over, or goes on elsewhere.
    """

    recorder: Recorder | None = None
    is_engine = False
    is_closing = False


here = _Here()


class _Process:
    """Of this process: `is_worker` is set in worker children, for good."""

    is_worker = False


def enter_worker() -> None:
    """From now on nothing in this process but the engine can start a step."""
    _Process.is_worker = True


# Outside a run: a step is running.
is_in_step: ContextVar[bool] = ContextVar("is_in_step", default=False)


def idempotency_key() -> str:
    """Inside a step: a key that every attempt of this step of this run has, for other systems.

    So it is in threads that the step starts or gives work to. In the workflow's own code another
    key at each call, the same ones whenever the code is run again: to be given on to steps.
    Outside a run, in unit tests, a new key each time. Raises RuntimeError in a worker where
    neither is: in what an attempt left running when it ended, or in a thread of somebody else.
    """
    if here.recorder is not None:
        return here.recorder.key()
    context = step_context.get()
    if context is not None and not context.is_over:
        return context.idempotency_key
    if context is None and not is_engine_here():
        return str(_uuid.uuid4())
    raise RuntimeError(
        "idempotency_key() was asked for where no step runs; ask for it in the step itself, and"
        " give it on as an argument"
    )


def is_engine_here() -> bool:
    """Only the engine may start a step here."""
    return _Process.is_worker or here.is_engine


def is_part_of_step() -> bool:
    """Whether what is awaited now belongs to a step that runs it. Raises nothing."""
    context = step_context.get()
    return not context.is_over if context is not None else is_in_step.get()


class Sleep:
    """A pause that holds no worker: the run waits in the database."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[Any, Any, None]:
        if here.recorder is not None:
            here.recorder.open_calls.pop(self, None)
            yield self
        elif here.is_closing:
            yield self
        elif is_engine_here() and not is_part_of_step():
            raise OutsideRun("sleep()")
        else:
            import asyncio  # takes as long as the rest of the front door, and no run needs it

            yield from asyncio.sleep(self.seconds).__await__()


def sleep(duration: float | timedelta) -> Sleep:
    """Await it to pause the run for `duration` (seconds or a timedelta), whatever crashes."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds <= 10 * 366 * 86_400:
        raise ValueError(f"sleep takes 0 seconds to ten years, not {seconds!r}")
    made = Sleep(seconds)
    if here.recorder is not None:
        caller = sys._getframe(1)  # noqa: SLF001 - `inspect` takes many times as long
        here.recorder.open_calls[made] = caller.f_code, caller.f_lasti
    return made


class Gather:
    """Branches that run in parallel, to be awaited."""

    __slots__ = ("branches", "is_exceptions_returned")

    def __init__(self, branches: tuple[Awaitable[Any], ...], is_exceptions_returned: bool) -> None:
        self.branches, self.is_exceptions_returned = branches, is_exceptions_returned

    def coroutines(self) -> list[Coroutine[Any, Any, Any]]:
        """One coroutine per branch; one that is a branch already fails, as if awaited twice."""
        made: list[Coroutine[Any, Any, Any]] = []
        seen: set[int] = set()
        for branch in self.branches:
            made.append(_await(branch) if id(branch) in seen else coroutine_of(branch))
            seen.add(id(branch))
        return made

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        if here.recorder is not None or here.is_closing:
            if here.recorder is not None:
                here.recorder.open_calls.pop(self, None)
            answer: list[Any] = yield self
            return answer
        if is_engine_here() and not is_part_of_step():
            raise OutsideRun("gather()")
        gathered = _gather_plain(self.coroutines(), self.is_exceptions_returned)
        results: list[Any] = yield from gathered.__await__()
        return results


def gather(*branches: Awaitable[Any], return_exceptions: bool = False) -> Gather:
    """Await it to run steps, sleeps, or coroutines of them in parallel; their results in order.

    All branches come to their end; then the first failure, in the order of the branches, is raised
    (or, with `return_exceptions`, stands in the list).
    """
    made = Gather(branches, return_exceptions)
    if here.recorder is not None:
        caller = sys._getframe(1)  # noqa: SLF001 - `inspect` takes many times as long
        here.recorder.open_calls[made] = caller.f_code, caller.f_lasti
    return made


def coroutine_of(awaitable: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
    """A coroutine that awaits it, if it is none itself, or one that somebody awaits."""
    if type(awaitable) is CoroutineType:
        return _await(awaitable) if awaitable.cr_suspended else awaitable
    return awaitable if isinstance(awaitable, Coroutine) else _await(awaitable)


async def _await(branch: Awaitable[Any]) -> Any:
    return await branch


async def _gather_plain(branches: list[Coroutine[Any, Any, Any]], is_returned: bool) -> list[Any]:
    import asyncio  # as above

    ended = await asyncio.gather(*map(_end_of, branches))
    for _, error in ended:
        if error is not None and not is_returned:
            raise error
    return [value if error is None else error for value, error in ended]


async def _end_of(branch: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """What it returned, which may be an exception too, or what it raised."""
    import asyncio  # as above

    try:
        return await branch, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - it is the branch's outcome
        return None, error


_chance = _random.SystemRandom().random  # not the module's, which steps seed


def _value(name: str, make: Callable[[], Any]) -> Any:
    return here.recorder.record(name, make) if here.recorder is not None else make()


def now() -> datetime:
    """The time, UTC; inside a run the one recorded when the code first came here."""
    text = _value("now", lambda: datetime.now(UTC).isoformat())
    return datetime.fromisoformat(text)


def uuid() -> _uuid.UUID:
    """A random UUID; inside a run the one recorded when the code first came here."""
    return _uuid.UUID(_value("uuid", lambda: str(_uuid.uuid4())))


def random() -> float:
    """A random number in [0, 1); inside a run the one recorded when the code first came here."""
    return float(_value("random", _chance))
