"""What a workflow awaits, and where in its run it is.

Inside a run, awaiting a step, `gather` or `sleep` yields a request to the engine, which resumes the
workflow with the recorded answer. Outside a run each of them just runs, so workflows are
unit-tested as plain code. Positions are paths: "3" is the third request of the workflow, "3.0.1"
the first request of the first branch of a `gather` at "3".
"""

import asyncio
import random as _random
import threading
import uuid as _uuid
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from app.domain.workflows import Step


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


class Recorder(Protocol):
    """The place in a run that is being advanced now; the engine's side of `now uuid random`."""

    def record(self, name: str, make: Callable[[], Any]) -> Any:
        """The value recorded at this position, or the one that `make` gives, from now on."""


class _Here(threading.local):
    recorder: Recorder | None = None


# Set by the engine while it advances a workflow, in its own thread only; None outside a run and
# inside steps.
here = _Here()


class StepContext(msgspec.Struct, frozen=True):
    """What a step may know of its attempt. `idempotency_key` is the same for every attempt."""

    run_id: str
    workflow: str
    position: str
    attempt: int
    idempotency_key: str
    traceparent: str | None


step_context: ContextVar[StepContext | None] = ContextVar("step_context", default=None)
# Outside a run: a step is running.
_is_in_step: ContextVar[bool] = ContextVar("is_in_step", default=False)


def idempotency_key() -> str:
    """Inside a step: a key that every attempt of this step of this run has, for other systems.

    Outside a run a new key each time.
    """
    context = step_context.get()
    return context.idempotency_key if context else str(_uuid.uuid4())


class StepCall:
    """A step with its arguments, to be awaited (or given to `gather`)."""

    __slots__ = ("arguments", "is_awaited", "keywords", "step")

    def __init__(
        self, step: "Step[..., Any]", arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        self.step, self.arguments, self.keywords = step, arguments, keywords
        self.is_awaited = False

    def __await__(self) -> Generator[Any, Any, Any]:
        self.is_awaited = True
        if here.recorder is not None:
            return (yield self)
        if step_context.get() is not None or _is_in_step.get():
            return (yield from self._run())  # a part of the step that calls it
        mark = _is_in_step.set(True)
        try:
            return (yield from self._run())
        except Exception as error:
            raise StepFailed(self.step.name, type(error).__name__, str(error)) from error
        finally:
            _is_in_step.reset(mark)

    def _run(self) -> Generator[Any, Any, Any]:
        outcome = self.step.function(*self.arguments, **self.keywords)
        if self.step.is_async:
            return (yield from outcome.__await__())
        return outcome

    def __del__(self) -> None:
        if not self.is_awaited:
            warnings.warn(
                f"step {self.step.name!r} was called but never awaited: it did not run",
                RuntimeWarning,
                stacklevel=2,
            )


class Sleep:
    """A pause that holds no worker: the run waits in the database."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[Any, Any, None]:
        if here.recorder is not None:
            yield self
        else:
            yield from asyncio.sleep(self.seconds).__await__()


def sleep(duration: float | timedelta) -> Sleep:
    """Await it to pause the run for `duration` (seconds or a timedelta), whatever crashes."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds <= 10 * 366 * 86_400:
        raise ValueError(f"sleep takes 0 seconds to ten years, not {seconds!r}")
    return Sleep(seconds)


class Gather:
    """Branches that run in parallel, to be awaited."""

    __slots__ = ("branches", "is_exceptions_returned")

    def __init__(self, branches: tuple[Awaitable[Any], ...], is_exceptions_returned: bool) -> None:
        self.branches, self.is_exceptions_returned = branches, is_exceptions_returned

    def coroutines(self) -> list[Coroutine[Any, Any, Any]]:
        """One coroutine per branch."""
        return [
            branch if isinstance(branch, Coroutine) else _await(branch) for branch in self.branches
        ]

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        if here.recorder is not None:
            answer: list[Any] = yield self
            return answer
        gathered = _gather_plain(self.coroutines(), self.is_exceptions_returned)
        results: list[Any] = yield from gathered.__await__()
        return results


def gather(*branches: Awaitable[Any], return_exceptions: bool = False) -> Gather:
    """Await it to run steps, sleeps, or coroutines of them in parallel; their results in order.

    All branches come to their end; then the first failure, in the order of the branches, is raised
    (or, with `return_exceptions`, stands in the list).
    """
    return Gather(branches, return_exceptions)


async def _await(branch: Awaitable[Any]) -> Any:
    return await branch


async def _gather_plain(branches: list[Coroutine[Any, Any, Any]], is_returned: bool) -> list[Any]:
    results = await asyncio.gather(*branches, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not is_returned:
            raise result
    return results


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
    return float(_value("random", _random.random))
