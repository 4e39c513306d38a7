"""What can be a step or a workflow, and what is refused where it is written, in words."""

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from veltrix import Event, on_worker_start, resource, step, transaction, workflow
from veltrix.authoring.definitions import DefinitionError

loose: Any = workflow  # as those write it who ask no type checker


def add(one: int, other: int = 0) -> int:
    return one + other


async def add_async(one: int, other: int = 0) -> int:
    return one + other


class Adds:
    """An object that is called."""

    def __call__(self, one: int) -> int:
        return one + 1

    def method(self, one: int) -> int:
        return one + 1


class AddsAsync:
    """The same, to be awaited."""

    async def __call__(self, one: int) -> int:
        return one + 1


async def takes_one(event: Event[Any]) -> None: ...


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


CALLABLES: list[tuple[Any, str, int]] = [
    (add, "add", 3),
    (add_async, "add_async", 3),
    (lambda one: one + 1, "<lambda>", 4),
    (functools.lru_cache(add), "add", 3),
    (functools.partial(add, other=1), "add", 4),
    (functools.partial(add_async, other=1), "add_async", 4),
    (functools.partial(functools.partial(add), other=1), "add", 4),
    (traced(add), "add", 3),
    (Adds(), "Adds", 4),
    (AddsAsync(), "AddsAsync", 4),
    (Adds().method, "method", 4),
    (staticmethod(add), "add", 3),
    (math.factorial, "factorial", 6),
    (int, "int", 3),
    (len, "len", 3),
]


@pytest.mark.parametrize(
    ("function", "name", "outcome"), CALLABLES, ids=lambda value: type(value).__name__
)
def test_any_callable_can_be_a_step_and_its_workflow_has_a_code_version(
    function: Any, name: str, outcome: int
) -> None:
    one = step(function)
    globals()["_named_by_the_workflow"] = one

    @workflow()
    async def flow(event: Event[Any]) -> Any:
        return await _named_by_the_workflow(event.data)  # type: ignore[name-defined] # noqa: F821

    data: Any = [1, 2, 3] if function is len else 3
    given: Any = asyncio.run(flow(Event(source="/s", id="1", type="t", data=data)))
    assert given == outcome
    assert one.name == name
    assert len(flow.code_version(None)) == 16
    assert flow.code_version(None) == flow.code_version(None)
    assert flow.transactional_steps() == []


def generates() -> Iterator[int]:
    yield 1


async def generates_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("make", [step, transaction], ids=["step", "transaction"])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (generates, "step 'generates' is a generator; return a list"),
        (generates_async, "step 'generates_async' is a generator; return a list"),
        (functools.lru_cache(add_async), "is a cache of an async def"),
        (Adds.method, "step 'method' is a method; make it a function"),
        (classmethod(loose), "take a function, not classmethod"),
        ("charge", "take a function, not 'charge'; options are named"),
        (5, "take a function, not 5"),
    ],
    ids=["generator", "async generator", "cache", "method", "classmethod", "text", "number"],
)
def test_what_cannot_be_a_step_says_what_can(make: Any, function: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        make(function)


def test_a_step_in_the_body_of_a_class_is_a_method() -> None:
    with pytest.raises(DefinitionError, match="step 'charge' is a method"):

        class Payments:
            @step
            def charge(self, cents: int) -> int:
                return cents


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: loose(add), r"write @workflow\(\) or @workflow\(on=...\)"),
        (lambda: loose()(add), "must be an async def"),
        (lambda: loose()(generates_async), "must be an async def, without yield"),
        (lambda: loose(when=add_async)(add_async), "`when` .* must be a def or a lambda"),
        (lambda: loose(key="order")(add_async), "`key` .* must be a def or a lambda"),
        (lambda: loose()(add_async), "exactly one argument"),
    ],
    ids=["no parentheses", "def", "generator", "async when", "key", "arguments"],
)
def test_what_cannot_be_a_workflow_says_what_can(make: Any, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        make()


any_step: Any = step
any_resource: Any = resource
any_hook: Any = on_worker_start


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: any_step(retrys=3), "@step has no option 'retrys'; did you mean 'retries'?"),
        (lambda: any_step(colour=3), "@step has no option 'colour'; it has name, retries, "),
        (lambda: any_step(retries="3"), "option 'retries' of @step must be int, not '3'"),
        (lambda: any_step(timeout_s=True), "must be int or float or None, not True"),
        (lambda: any_step(non_retryable=ValueError), "must be tuple or list or set"),
        (lambda: any_step(loose()(takes_one)), "'takes_one' is a workflow, and cannot be a step"),
        (lambda: loose()(any_step(add_async)), "'add_async' is a step, and cannot be a workflow"),
        (lambda: loose(retrys=3), "@workflow has no option 'retrys'; did you mean 'retries'?"),
        (lambda: loose(queue=3), "option 'queue' of @workflow must be str, not 3"),
        (lambda: any_resource(None), "@resource takes a generator that yields once"),
        (lambda: any_resource(size=3), "@resource has no option 'size'; it has none"),
        (lambda: any_hook(None), "@on_worker_start takes a function; write it without parentheses"),
        (lambda: any_step(Adds.method), "step 'method' is a method"),
        (lambda: any_step(generates), "step 'generates' is a generator"),
    ],
)
def test_a_wrong_declaration_is_told_with_its_file_and_line(make: Any, words: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        make()

    line = make.__code__.co_firstlineno
    assert str(refused.value).startswith(f"tests/domain/test_definitions.py:{line}: ")
    assert words in str(refused.value)
