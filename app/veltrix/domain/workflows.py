"""Workflows and steps as their authors declare them."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from typing_extensions import TypeVar as TypeVarWithDefault

from veltrix.domain.code import code_digest, name_of, referred
from veltrix.domain.definitions import DefinitionError, check_step, is_async
from veltrix.domain.encoding import Codec
from veltrix.domain.events import Event
from veltrix.domain.flow import NonRetryable, StepCall

P = ParamSpec("P")
R = TypeVar("R")
Data = TypeVarWithDefault("Data", default=Any)
Outcome = TypeVarWithDefault("Outcome", default=Any)

DEFAULT_QUEUE = "default"
NAME_CHARS_MAX = 200


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
        return StepCall(self, args, kwargs)

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
    decorate = TransactionDecorator(**options)
    return decorate(function) if function is not None else decorate


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


@dataclass(frozen=True)
class Workflow(Generic[Data, Outcome]):
    """A business workflow: the code a run executes. Calling it runs it as plain code."""

    name: str
    function: Callable[[Event[Data]], Awaitable[Outcome]]
    types: tuple[str, ...]
    queue: str
    policy: RetryPolicy
    when: Callable[[Event[Any]], bool] | None
    key: Callable[[Event[Any]], str | None] | None
    timeout_s: float | None
    codec: Codec = field(repr=False)

    def __call__(self, event: Event[Data]) -> Awaitable[Outcome]:
        return self.function(event)

    def code_version(self, release: str | None) -> str:
        """`release`, or a digest of what it is: its types, its queue, its source and its steps'.

        The source alone does not always show which types and queue it is declared with.
        """
        declared = f"{self.queue} {' '.join(self.types)}"
        return release or code_digest(self.function, Step, declared)

    def mistakes(self) -> list[str]:
        """Why this workflow can never run; empty: nothing is known to be wrong with it."""
        return self.codec.input_mistakes()

    def transactional_steps(self) -> list[str]:
        """The names of those of the steps it names whose effect is exactly once."""
        steps = (found for found in referred(self.function, Step) if isinstance(found, Step))
        return sorted({found.name for found in steps if found.is_transactional})


class WorkflowDecorator(Protocol):
    """`workflow` with its options."""

    def __call__(
        self, function: Callable[[Event[Data]], Awaitable[Outcome]], /
    ) -> Workflow[Data, Outcome]: ...


def workflow(
    function: object = None,
    /,
    *,
    on: str | Sequence[str] = (),
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    when: Callable[[Event[Any]], bool] | None = None,
    key: Callable[[Event[Any]], str | None] | None = None,
    retries: int = 3,
    timeout_s: float | None = None,
) -> "WorkflowDecorator":
    """Make an `async def` a workflow, started by the event types in `on`, or by name.

    A type in `on` is "a.b", or "a.*" for all that begin with "a.".
    `when` decides per event whether there is anything to do; `key` is the business key (default:
    the event's subject). `retries` are for errors of the workflow's own code: steps have their own.
    """
    if function is not None:
        raise DefinitionError("@workflow takes options: write @workflow() or @workflow(on=...)")
    types = (on,) if isinstance(on, str) else tuple(on)

    def decorate(function: Callable[[Event[Any]], Awaitable[Any]]) -> Workflow[Any, Any]:
        name_ = name or name_of(function)
        predicates: dict[str, Any] = {"when": when, "key": key}
        for what, predicate in predicates.items():
            if predicate is not None and (not callable(predicate) or is_async(predicate)):
                raise DefinitionError(f"`{what}` of workflow {name_!r} must be a def or a lambda")
        _check_definition(name_, function, types, queue, timeout_s)
        return Workflow(
            name=name_,
            function=function,
            types=types,
            queue=queue,
            policy=RetryPolicy(retries=retries),
            when=when,
            key=key,
            timeout_s=timeout_s,
            codec=Codec(function),
        )

    return decorate


def _check_definition(
    name: str, function: object, types: Sequence[str], queue: str, timeout_s: float | None
) -> None:
    if not is_async(function):
        raise DefinitionError(f"workflow {name!r} must be an async def, without yield")
    if len(inspect.signature(cast(Any, function)).parameters) != 1:
        raise DefinitionError(f"workflow {name!r} must take exactly one argument, the event")
    for word, what in ((name, "name"), (queue, "queue")):
        if not 0 < len(word) <= NAME_CHARS_MAX or not word.isascii() or not word.isprintable():
            raise DefinitionError(f"{what} {word!r} must be 1 to {NAME_CHARS_MAX} printable ASCII")
        if any(c in word for c in " ,*#/"):
            raise DefinitionError(f"{what} {word!r} must not hold a space or any of , * # /")
    if queue.startswith(("veltrix.", "amq.", "celery")):
        raise DefinitionError(f"queue {queue!r} of {name!r}: such names are the platform's own")
    for type_ in map(str, types):
        if not type_ or "*" in type_.removesuffix(".*"):
            raise DefinitionError(f'event type {type_!r} must be a type, or a prefix and ".*"')
    if timeout_s is not None and not timeout_s > 0:
        raise DefinitionError(f"timeout_s of workflow {name!r} must be above 0")
