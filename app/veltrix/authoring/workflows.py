"""Workflows as their authors declare them."""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Never, ParamSpec, Protocol, TypeVar, cast

from typing_extensions import TypeVar as TypeVarWithDefault

from veltrix.authoring.code import code_digest, name_of, referred
from veltrix.authoring.definitions import NUMBER, DefinitionError, check_options, is_async
from veltrix.authoring.encoding import Codec
from veltrix.authoring.steps import RetryPolicy, Step
from veltrix.domain.events import Event

P = ParamSpec("P")
R = TypeVar("R")
Data = TypeVarWithDefault("Data", default=Any)
Outcome = TypeVarWithDefault("Outcome", default=Any)

DEFAULT_QUEUE = "default"
NAME_CHARS_MAX = 200
_KNOWN = {
    "on": (str, tuple, list, set, frozenset),
    "name": (str, type(None)),
    "queue": str,
    "when": object,
    "key": object,
    "retries": int,
    "timeout_s": (*NUMBER, type(None)),
}


@dataclass(frozen=True)
class Workflow(Generic[Data, Outcome]):
    """A business workflow: the code a run executes. Calling it runs it as plain code."""

    name: str
    function: Callable[[Event[Data]], Coroutine[Any, Any, Outcome]]
    types: tuple[str, ...]
    queue: str
    policy: RetryPolicy
    when: Callable[[Event[Any]], bool] | None
    key: Callable[[Event[Any]], str | None] | None
    timeout_s: float | None
    codec: Codec = field(repr=False)

    def __call__(self, event: Event[Data]) -> Coroutine[Any, Any, Outcome]:
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
        self, function: Callable[[Event[Data]], Coroutine[Any, Any, Outcome]], /
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
    **unknown: Never,
) -> "WorkflowDecorator":
    """Make an `async def` a workflow, started by the event types in `on`, or by name.

    A type in `on` is "a.b", or "a.*" for all that begin with "a.".
    `when` decides per event whether there is anything to do; `key` is the business key (default:
    the event's subject). `retries` are for errors of the workflow's own code: steps have their own.
    """
    if function is not None:
        raise DefinitionError("@workflow takes options: write @workflow() or @workflow(on=...)")
    given = {"name": name, "queue": queue, "retries": retries, "timeout_s": timeout_s, "on": on}
    check_options("@workflow", {**given, **unknown}, _KNOWN)
    types = (on,) if isinstance(on, str) else tuple(on)

    def decorate(function: Callable[[Event[Any]], Coroutine[Any, Any, Any]]) -> Workflow[Any, Any]:
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
    if isinstance(function, Step):
        raise DefinitionError(
            f"{name!r} is a step, and cannot be a workflow too; keep one of the two decorators"
        )
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
