"""A resource is made once in a process, or loop, and closed in the order opposite to its making."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from veltrix import StepFailed, on_worker_start, resource, step
from veltrix.authoring.definitions import DefinitionError
from veltrix.authoring.resources import close_resources, start_hooks


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    close_resources(1.0, print)


def test_one_for_all_who_ask_and_closed_the_last_first() -> None:
    told: list[str] = []

    @resource
    def pool() -> Iterator[str]:
        told.append("pool")
        yield "pool"
        told.append("pool closed")

    @resource
    def client() -> Iterator[list[str]]:
        yield [pool()]
        told.append("client closed")
        raise RuntimeError("it was away already")

    @step
    def ask() -> list[str]:
        return client()

    async def both() -> tuple[list[str], list[str]]:
        return await ask(), client()

    first, second = asyncio.run(both())
    assert first is second
    errors: list[BaseException] = []
    close_resources(1.0, errors.append)
    assert told == ["pool", "client closed", "pool closed"]
    assert [str(error) for error in errors] == ["it was away already"]
    client()
    assert told[3:] == ["pool"], "after its end it is made anew"


def test_one_in_each_loop_and_made_anew_where_it_failed() -> None:
    tries = iter([ConnectionError("not yet"), None, None])

    @resource
    async def client() -> AsyncIterator[object]:
        await asyncio.sleep(0)
        if error := next(tries):
            raise error
        yield object()

    async def ask() -> list[Any]:
        return list(await asyncio.gather(client(), client(), return_exceptions=True))

    async def twice() -> list[Any]:
        return [*await ask(), *await ask()]

    failed, too, one, same = asyncio.run(twice())
    assert isinstance(failed, ConnectionError)
    assert too is failed, "who waits for it meanwhile hears the same"
    assert one is same
    (other, _) = asyncio.run(ask())
    assert other is not one


def test_who_is_cancelled_takes_it_from_nobody() -> None:
    may_go_on = asyncio.Event()

    @resource
    async def client() -> AsyncIterator[str]:
        await may_go_on.wait()
        yield "made"

    async def ask() -> str:
        first, second = (asyncio.ensure_future(client()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        may_go_on.set()
        return await second

    assert asyncio.run(ask()) == "made"


def test_a_making_that_hangs_is_given_up_and_begun_anew() -> None:
    tries: list[str] = []

    @resource
    async def client() -> AsyncIterator[str]:
        tries.append("begun")
        try:
            if len(tries) == 1:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            tries.append("given up")
            raise
        yield "made"

    async def ask() -> list[Any]:
        first = [asyncio.wait_for(client(), 0.01) for _ in range(2)]
        ended = await asyncio.gather(*first, return_exceptions=True)
        return [*map(type, ended), await client(), await client()]

    assert asyncio.run(ask()) == [TimeoutError, TimeoutError, "made", "made"]
    assert tries == ["begun", "given up", "begun"]


def test_an_async_one_in_a_def_step_says_what_step_can_have_it() -> None:
    @resource
    async def client() -> AsyncIterator[str]:
        yield "made"

    @step
    def ask() -> object:
        return client()

    async def flow() -> object:
        return await ask()

    coroutine: Any = flow()
    with pytest.raises(StepFailed, match="make the step an async def"):
        coroutine.send(None)  # as in a worker, whose main thread has no event loop


def test_a_copy_of_the_process_has_its_own() -> None:
    @resource
    def client() -> Iterator[int]:
        yield os.getpid()

    assert client() == os.getpid()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if client() == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


plain: Any = lambda: 1  # noqa: E731 - as an author without types may write


def _named(_name: str) -> Iterator[int]:
    yield 1


with_an_argument: Any = _named
a_number: Any = 42


def _without_yield() -> Iterator[int]:
    return
    yield


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: resource(plain), "a generator that yields once"),
        (lambda: resource(with_an_argument), "must take no arguments"),
        (lambda: on_worker_start(with_an_argument), "must take no arguments"),
        (lambda: on_worker_start(a_number), "takes a function"),
    ],
)
def test_what_cannot_be_one_is_said_where_it_is_written(
    make: Callable[[], object], said: str
) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()
    assert a_number not in start_hooks


def test_a_generator_that_yields_nothing_says_so() -> None:
    with pytest.raises(RuntimeError, match="ended without a yield"):
        resource(_without_yield)()
