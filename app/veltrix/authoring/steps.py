"""Steps as their authors declare and call them."""

import warnings
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from sys import _getframe  # `inspect` takes many times as long
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from veltrix.authoring.code import name_of
from veltrix.authoring.definitions import (
    NUMBER,
    DefinitionError,
    check_options,
    check_step,
    is_async,
)
from veltrix.authoring.encoding import Codec
from veltrix.authoring.flow import (
    NonRetryable,
    OutsideRun,
    StepFailed,
    here,
    is_engine_here,
    is_in_step,
    is_part_of_step,
    type_and_message,
)
from veltrix.domain.context import step_context

P = ParamSpec("P")
R = TypeVar("R")

# Not as an attribute of the group: its class may make anything of that.
_members_of: Callable[[BaseException], tuple[BaseException, ...]]
_members_of = vars(BaseExceptionGroup)["exceptions"].__get__


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retries` further attempts, the first after about `backoff_s`, each later by the factor."""

    retries: int = 3
    backoff_s: float = 1.0
    backoff_factor: float = 2.0
    backoff_s_max: float = 300.0
    non_retryable: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 10_000:
            raise DefinitionError(f"retries must be 0 to 10,000, not {self.retries!r}")
        if not (0 <= self.backoff_s <= self.backoff_s_max and self.backoff_factor >= 1):
            raise DefinitionError(
                "back-off needs 0 <= backoff_s <= backoff_s_max and a factor >= 1"
            )
        for type_ in self.non_retryable:
            given: object = type_
            if not (isinstance(given, type) and issubclass(given, BaseException)):
                raise DefinitionError(f"non_retryable takes exception classes, not {type_!r}")

    def is_final(self, error: BaseException) -> bool:
        """This error, or one of those that it is a group of, is not tried again."""
        # By its type alone: `isinstance` asks the error itself as well, and a proxy may raise.
        final: tuple[type[BaseException], ...] = (NonRetryable, *self.non_retryable)
        errors = [error]
        while errors:
            kind = type(one := errors.pop())
            if issubclass(kind, final):
                return True
            if issubclass(kind, BaseExceptionGroup):  # as of a TaskGroup
                errors += _members_of(one)
        return False


class StepCall:
    """A step with its arguments, to be awaited (or given to `gather`).

    `is_accounted`: it was awaited, or its run knows that it is to be.
    """

    __slots__ = ("arguments", "is_accounted", "keywords", "step")

    def __init__(
        self, step: "Step[..., Any]", arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        self.step, self.arguments, self.keywords = step, arguments, keywords
        self.is_accounted = False

    def __await__(self) -> Generator[Any, Any, Any]:
        self.is_accounted = True
        recorder = here.recorder
        if recorder is not None:
            recorder.open_calls.pop(self, None)
            return (yield self)
        if here.is_closing:
            yield self  # whoever closes it gives it up then, however often it tries
        if is_part_of_step():
            return (yield from self._run())
        if step_context.get() is not None or is_engine_here():
            raise OutsideRun(f"step {self.step.name!r}")
        mark = is_in_step.set(True)
        try:
            return (yield from self._run())
        except Exception as error:
            raise StepFailed(self.step.name, *type_and_message(error)) from error
        finally:
            is_in_step.reset(mark)

    def _run(self) -> Generator[Any, Any, Any]:
        outcome = self.step.function(*self.arguments, **self.keywords)
        if self.step.is_async:
            return (yield from outcome.__await__())
        return outcome

    def __del__(self) -> None:
        if not self.is_accounted:
            warnings.warn(
                f"step {self.step.name!r} was called but never awaited: it did not run",
                RuntimeWarning,
                stacklevel=2,
            )


class Step(Generic[P, R]):
    """A function whose finished call is recorded: after a crash the journal has its output.

    Calling it gives something to await; `function` is the plain function, for unit tests.
    """

    def __init__(
        self,
        function: Callable[P, Any],
        *,
        name: str | None,
        policy: RetryPolicy,
        timeout_s: float | None,
        is_transactional: bool = False,
    ) -> None:
        check_step(function)
        update_wrapper(cast(Callable[..., Any], self), function, updated=())
        self.function = function
        self.name = name or name_of(function)
        self.policy = policy
        self.timeout_s = timeout_s
        self.is_transactional = is_transactional
        self.is_async = is_async(function)
        self.codec = Codec(function)
        if is_transactional and self.is_async:
            raise DefinitionError(
                f"transaction {self.name!r} is async def; use def: a session has one thread"
            )
        if timeout_s is not None and not 0 < timeout_s <= 86_400:
            raise DefinitionError(
                f"timeout_s of step {self.name!r} must be above 0, at most 86,400"
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        call = StepCall(self, args, kwargs)
        recorder = here.recorder
        if recorder is not None:
            caller = _getframe(1)
            recorder.open_calls[call] = caller.f_code, caller.f_lasti
            call.is_accounted = True
        return call

    def __repr__(self) -> str:
        return f"<step {self.name}>"


@overload
def step(function: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...
@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    retries: int = 3,
    backoff_s: float = 1.0,
    backoff_factor: float = 2.0,
    backoff_s_max: float = 300.0,
    timeout_s: float | None = None,
    non_retryable: Sequence[type[BaseException]] = (),
) -> "StepDecorator": ...
def step(function: Any = None, /, **options: Any) -> Any:
    """Make a function a step: `@step` or `@step(retries=5, timeout_s=10)`. `def` or `async def`.

    It takes effect at least once; `idempotency_key()` is the same in every attempt.
    """
    check_options("@step", options, _KNOWN)
    decorate = StepDecorator(**options)
    return decorate(function) if function is not None else decorate


@overload
def transaction(function: Callable[Concatenate[Any, P], R], /) -> Step[P, R]: ...
@overload
def transaction(
    *,
    name: str | None = None,
    retries: int = 3,
    backoff_s: float = 1.0,
    backoff_factor: float = 2.0,
    backoff_s_max: float = 300.0,
    timeout_s: float | None = None,
    non_retryable: Sequence[type[BaseException]] = (),
) -> "TransactionDecorator": ...
def transaction(function: Any = None, /, **options: Any) -> Any:
    """Make a `def` a step that receives a SQLAlchemy `Session` first and takes effect exactly once.

    Its changes are committed with the record that it is done. The code may run more than once.
    """
    check_options("@transaction", options, _KNOWN)
    decorate = TransactionDecorator(**options)
    return decorate(function) if function is not None else decorate


_KNOWN = {
    "name": (str, type(None)),
    "retries": int,
    "backoff_s": NUMBER,
    "backoff_factor": NUMBER,
    "backoff_s_max": NUMBER,
    "timeout_s": (*NUMBER, type(None)),
    "non_retryable": (tuple, list, set, frozenset),
}


class _Options:
    """What `step` and `transaction` were given, to be applied to a function."""

    def __init__(
        self,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
        non_retryable: Sequence[type[BaseException]] = (),
        **backoff: Any,
    ) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._policy = RetryPolicy(non_retryable=tuple(non_retryable), **backoff)

    def _make(self, function: Callable[..., Any], *, is_transactional: bool) -> Any:
        return Step(
            function,
            name=self._name,
            policy=self._policy,
            timeout_s=self._timeout_s,
            is_transactional=is_transactional,
        )


class StepDecorator(_Options):
    """`step` with options."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]]) -> Step[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Step[P, R]: ...
    def __call__(self, function: Any) -> Any:
        return self._make(function, is_transactional=False)


class TransactionDecorator(_Options):
    """`transaction` with options."""

    def __call__(self, function: Callable[Concatenate[Any, P], R]) -> Step[P, R]:
        made: Step[P, R] = self._make(function, is_transactional=True)
        return made
