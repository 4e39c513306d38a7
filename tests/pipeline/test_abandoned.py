"""A run that only waits, is handed back, lost or cancelled runs none of its clean-up."""

import contextlib
import gc
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, Self

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, journal_of, let_time_pass
from tests.support.due_runs import add_runs, change_runs, read_runs
from veltrix import Event, gather, sleep, step, workflow
from veltrix.pipeline.execute.coroutines import abandon as abandoning
from veltrix.pipeline.execute.coroutines.abandon import abandon

calls: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@step(retries=0)
def reserve() -> str:
    calls.append("reserve")
    return "seat 7"


@step(retries=0)
async def release(what: str) -> None:
    calls.append(f"release {what}")


@contextlib.asynccontextmanager
async def reserved() -> AsyncIterator[str]:
    seat = await reserve()
    try:
        yield seat
    finally:
        calls.append("leaving")
        await release(seat)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    try:
        yield
    finally:
        calls.append("not watched any more")


async def seats() -> AsyncGenerator[str]:
    try:
        yield await reserve()
    finally:
        await release("of a generator")


@workflow(name="finally")
async def with_finally(event: Event[Any]) -> str:
    seat = await reserve()
    try:
        await sleep(60)
    finally:
        calls.append("clean-up")
        await release(seat)
    return seat


@workflow(name="except")
async def with_except(event: Event[Any]) -> str:
    seat = await reserve()
    try:
        await sleep(60)
    except BaseException:
        await release(seat)
        raise
    return seat


@workflow(name="again")
async def with_endless_tries(event: Event[Any]) -> str:
    await reserve()
    while True:
        try:
            await sleep(60)
            return "slept"
        except BaseException:  # noqa: BLE001 - what authors write
            await release("again")


@workflow(name="managers")
async def with_managers(event: Event[Any]) -> str:
    async with contextlib.AsyncExitStack() as stack:
        seat = await stack.enter_async_context(reserved())
        with watched():
            async with contextlib.aclosing(seats()) as others:
                async for other in others:
                    await sleep(60)
                    return f"{seat} {other}"
    return seat


class Wrapped:
    """An awaitable that leaves the waiting to another."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __await__(self) -> Any:
        return self.inner.__await__()


class Saga:
    """A context manager that holds others, as libraries write them."""

    def __init__(self) -> None:
        self.stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.stack.enter_async_context(reserved())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stack.aclose()


def pages() -> Iterator[int]:
    try:
        yield from range(9)
    finally:
        calls.append("no page any more")


class Pages:
    """An iterator that holds a generator, in a slot."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = pages()

    def __iter__(self) -> "Pages":
        return self

    def __next__(self) -> int:
        return next(self.left)


@workflow(name="holders")
async def with_holders(event: Event[Any]) -> str:
    async with Saga():
        for _ in Pages():
            for _ in map(str, itertools.chain(pages())):
                inner = pages()
                next(inner)

                def more(inner: Any = inner) -> Any:
                    return inner

                await Wrapped(sleeps())
                return f"{more}"
    return ""


async def sleeps() -> None:
    try:
        await sleep(60)
    finally:
        calls.append("awake")


SLEEPERS = [with_finally, with_except, with_endless_tries, with_managers, with_holders]


@pytest.mark.parametrize("flow", SLEEPERS, ids=lambda flow: flow.name)
def test_a_run_that_goes_to_sleep_cleans_nothing_up_and_one_that_ends_does(
    engine: Engine, hands: Hands, flow: Any
) -> None:
    (run_id,) = add_runs(engine, 1, workflow=flow.name)
    batch = hands(flow)

    assert batch.run([run_id]) == {run_id: "waiting"}
    gc.collect()
    assert set(calls) == {"reserve"}

    let_time_pass(engine)
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")
    assert batch.run([run_id]) == {run_id: "succeeded"}
    cleaned = [call for call in calls if call.startswith("release")]
    journalled = [name for _, _, name in journal_of(engine, run_id) if name == "release"]
    assert len(journalled) == len(cleaned)
    assert (
        len(cleaned)
        == {"finally": 1, "except": 0, "again": 0, "managers": 2, "holders": 1}[flow.name]
    )


def test_a_run_with_an_attempt_to_come_cleans_nothing_up(engine: Engine, hands: Hands) -> None:
    @step(retries=2, backoff_s=60)
    def flaky() -> str:
        raise ConnectionError("not yet")

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> str:
        async with reserved():
            return await flaky()

    (run_id,) = add_runs(engine, 1)

    assert hands(flow).run([run_id]) == {run_id: "waiting"}
    assert calls == ["reserve"]


def test_a_run_that_is_handed_back_cleans_nothing_up(engine: Engine, hands: Hands) -> None:
    @step(retries=0)
    def shut_down() -> None:
        batch.is_leaving = True

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> str:
        async with reserved():
            await shut_down()
            return await reserve()

    (run_id,) = add_runs(engine, 1)
    one = hands(flow)
    batch = one.claim([run_id])

    assert one.execute(batch) == {run_id: "queued"}
    assert calls == ["reserve"]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ("cancel_requested_at = now()", "cancelled"),
        ("state = 'queued', lease_token = null", "lost"),
    ],
)
def test_a_run_that_is_cancelled_or_lost_cleans_nothing_up(
    engine: Engine, hands: Hands, change: str, outcome: str
) -> None:
    @step(retries=0)
    def meanwhile() -> None:
        change_runs(engine, run_ids, change)

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> str:
        async with reserved():
            await meanwhile()
            return await reserve()

    run_ids = add_runs(engine, 1)

    assert hands(flow).run(run_ids) == {run_ids[0]: outcome}
    assert calls == ["reserve"]


def test_runs_taken_before_they_began_clean_nothing_up(engine: Engine, hands: Hands) -> None:
    taken: list[str] = []

    @step(retries=0)
    def slow() -> None:
        taken.extend(batch.take_not_begun())

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        try:
            await slow()
        finally:
            await release(event.event_id or "")

    run_ids = add_runs(engine, 3)
    one = hands(flow)
    batch = one.claim(run_ids)
    outcomes = one.execute(batch)
    gc.collect()

    assert taken == run_ids[1:]
    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded", "lost", "lost"]
    assert len(calls) == 1  # of the run that ended


def test_a_mismatch_refuses_every_request_after_it(engine: Engine, hands: Hands) -> None:
    from veltrix import now

    @workflow(name="fulfil")
    async def before(event: Event[Any]) -> None:
        await reserve()
        await sleep(60)

    @workflow(name="fulfil")
    async def after(event: Event[Any]) -> str:
        try:
            now()  # where the step was
        except BaseException:  # noqa: BLE001 - what authors write
            await release("caught")
        finally:
            await release("finally")
        return "guessed"

    (run_id,) = add_runs(engine, 1)
    hands(before).run([run_id])
    calls.clear()
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")

    assert hands(after).run([run_id]) == {run_id: "waiting"}
    assert calls == []
    assert len(journal_of(engine, run_id)) == 2
    assert read_runs(engine, [run_id], "reason")[0].reason is None


class _Pause:
    def __await__(self) -> Generator[Any, Any, None]:
        yield


def _left() -> Any:
    """A coroutine that waits, in whose way there is a lot to clean up."""

    async def inner() -> None:
        try:
            await _Pause()
        finally:
            calls.append("inner")

    async def outer() -> None:
        while True:
            try:
                with watched():
                    await inner()
            except BaseException:  # noqa: BLE001 - what authors write
                calls.append("caught")

    coroutine = outer()
    coroutine.send(None)
    return coroutine


def test_an_abandoned_coroutine_never_runs_again() -> None:
    coroutine = _left()

    abandon([coroutine])
    del coroutine
    gc.collect()

    assert abandoning._IS_MARKED  # this Python can
    assert calls == []


def test_a_wide_run_that_goes_to_sleep_cleans_nothing_up(engine: Engine, hands: Hands) -> None:
    async def branch() -> None:
        await sleeps()

    @workflow(name="fulfil")
    async def wide(event: Event[Any]) -> None:
        await gather(*(branch() for _ in range(7_000)))

    (run_id,) = add_runs(engine, 1)

    assert hands(wide).run([run_id]) == {run_id: "waiting"}
    gc.collect()
    assert calls == []


def test_where_python_has_no_mark_closing_runs_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoning, "_IS_MARKED", False)

    async def flow() -> None:
        seat = reserve()
        try:
            await _Pause()
        finally:
            await seat

    coroutine = flow()
    coroutine.send(None)
    abandon([coroutine])

    assert calls == []
    monkeypatch.undo()
    abandon([coroutine])
