"""Workflows and steps as their authors declare them."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from hashlib import blake2b
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from typing_extensions import TypeVar as TypeVarWithDefault

from app.domain.encoding import Codec
from app.domain.events import Event
from app.domain.flow import NonRetryable, StepCall

P = ParamSpec("P")
R = TypeVar("R")
Data = TypeVarWithDefault("Data", default=Any)
Outcome = TypeVarWithDefault("Outcome", default=Any)

DEFAULT_QUEUE = "default"
NAME_CHARS_MAX = 200


class DefinitionError(TypeError):
    """A workflow or step is declared in a way that cannot work; the message says how it can."""


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

    def is_final(self, error: BaseException) -> bool:
        """This error is not tried again."""
        return isinstance(error, (NonRetryable, *self.non_retryable))


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
        update_wrapper(cast(Callable[..., Any], self), function)
        self.function = function
        self.name = name or function.__name__
        self.policy = policy
        self.timeout_s = timeout_s
        self.is_transactional = is_transactional
        self.is_async = inspect.iscoroutinefunction(function)
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
        """`release`, or a digest of the source of the workflow and of the steps it names."""
        return release or _code_digest(self.function)

    def transactional_steps(self) -> list[str]:
        """The names of those of the steps it names whose effect is exactly once."""
        steps = (found for found in _referred(self.function) if isinstance(found, Step))
        return sorted({found.name for found in steps if found.is_transactional})


class WorkflowDecorator(Protocol):
    """`workflow` with its options."""

    def __call__(
        self, function: Callable[[Event[Data]], Awaitable[Outcome]], /
    ) -> Workflow[Data, Outcome]: ...


def workflow(
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
    types = (on,) if isinstance(on, str) else tuple(on)

    def decorate(function: Callable[[Event[Any]], Awaitable[Any]]) -> Workflow[Any, Any]:
        name_ = name or function.__name__
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
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(f"workflow {name!r} must be an async def")
    if len(inspect.signature(function).parameters) != 1:
        raise DefinitionError(f"workflow {name!r} must take exactly one argument, the event")
    for word, what in ((name, "name"), (queue, "queue")):
        if not 0 < len(word) <= NAME_CHARS_MAX or not word.isascii() or not word.isprintable():
            raise DefinitionError(f"{what} {word!r} must be 1 to {NAME_CHARS_MAX} printable ASCII")
        if any(c in word for c in " ,*#/"):
            raise DefinitionError(f"{what} {word!r} must not hold a space or any of , * # /")
    if queue.startswith(("veltrix.", "amq.", "celery")):
        raise DefinitionError(f"queue {queue!r} of {name!r}: such names are the platform's own")
    for type_ in types:
        if not type_ or "*" in type_.removesuffix(".*"):
            raise DefinitionError(f'event type {type_!r} must be a type, or a prefix and ".*"')
    if timeout_s is not None and not timeout_s > 0:
        raise DefinitionError(f"timeout_s of workflow {name!r} must be above 0")


def _code_digest(function: Callable[..., Any]) -> str:
    sources: dict[str, str] = {}
    for found in _referred(function):
        code = found.function if isinstance(found, Step) else found
        label = f"{code.__module__}.{code.__qualname__}"
        try:
            sources[label] = inspect.getsource(code)
        except (OSError, TypeError):
            sources[label] = code.__code__.co_code.hex()
    digest = blake2b(digest_size=8)
    for label in sorted(sources):
        digest.update(f"{label}\n{sources[label]}\n".encode())
    return digest.hexdigest()


def _referred(function: Callable[..., Any]) -> Iterator[Any]:
    """The function, and what it names and so on: steps, and functions of its own module."""
    seen: set[str] = set()
    waiting: list[Any] = [function]
    while waiting:
        found = waiting.pop()
        code = found.function if isinstance(found, Step) else found
        label = f"{code.__module__}.{code.__qualname__}"
        if label in seen:
            continue
        seen.add(label)
        yield found
        for referred in code.__code__.co_names:
            named = code.__globals__.get(referred)
            is_own = inspect.isfunction(named) and named.__module__ == function.__module__
            if isinstance(named, Step) or is_own:
                waiting.append(named)
