"""Odd code of authors harms no other run, nor its own: shared state, alarms, proxies, panics."""

import asyncio
import decimal
import random as chance
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec
import pydantic
import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, journal_of
from tests.support.due_runs import add_runs, read_runs
from veltrix import Event, NonRetryable, gather, random, step, workflow

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    calls.clear()
    yield
    decimal.setcontext(decimal.Context(prec=28))
    signal.setitimer(signal.ITIMER_REAL, 0)


@step(retries=0)
def note(what: Any) -> Any:
    calls.append(what)
    return what


def outcomes(engine: Engine, hands: Hands, flow: Any, count: int = 1) -> list[Any]:
    run_ids = add_runs(engine, count)
    hands(flow).run(run_ids)
    return [row.outcome for row in read_runs(engine, run_ids, "outcome")]


# ---- what is shared by all code of a process


def _rough() -> int:
    before = decimal.getcontext().prec
    decimal.getcontext().prec = 3
    return before


@pytest.mark.parametrize("is_async", [False, True])
def test_how_a_step_rounds_is_nobody_elses(engine: Engine, hands: Hands, is_async: bool) -> None:
    @step(retries=0)
    async def rough_async() -> int:
        return _rough()

    rough: Any = rough_async if is_async else step(retries=0)(_rough)
    decimal.getcontext()  # as the engine's own thread has one, which every copy would share

    async def branch() -> int:
        return _rough()

    @workflow(name="fulfil")
    async def divides(event: Event[Any]) -> list[Any]:
        seen = [await rough(), *await gather(branch(), branch())]
        return [*seen, str(decimal.Decimal(1) / 7), _rough()]

    exact = str(decimal.Decimal(1) / 7)
    assert outcomes(engine, hands, divides, 3) == [[28, 28, 28, exact, 28]] * 3


def test_chance_is_not_what_a_step_has_seeded(engine: Engine, hands: Hands) -> None:
    @step(retries=0)
    def train() -> None:
        chance.seed(42)

    @workflow(name="fulfil")
    async def draws(event: Event[Any]) -> float:
        await train()
        return random()

    assert len(set(outcomes(engine, hands, draws, 3))) == 3


def test_a_handler_of_alarms_that_a_step_leaves_is_nobody_elses(
    engine: Engine, hands: Hands
) -> None:
    def ring(*_: object) -> None:
        raise ValueError("not yours")

    @step(retries=0)
    def guards_itself() -> None:
        signal.signal(signal.SIGALRM, ring)
        signal.alarm(9)
        signal.alarm(0)

    @step(retries=0, timeout_s=0.1)
    def overruns() -> None:
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            pass

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        await guards_itself()
        await overruns()

    (outcome,) = outcomes(engine, hands, flow)

    assert outcome["type"] == "StepTimeout"


# ---- what a branch may be


def test_a_coroutine_given_twice_fails_and_is_told_nothing_wrong(
    engine: Engine, hands: Hands
) -> None:
    async def sells() -> None:
        await note(await note("reserved"))

    async def gathers(branch: Any) -> None:
        await gather(branch)

    @workflow(name="fulfil", retries=0)
    async def twice(event: Event[Any]) -> list[list[str]]:
        one, other = sells(), sells()
        ends = [
            await gather(one, one, return_exceptions=True),
            await gather(gathers(other), gathers(other), return_exceptions=True),
        ]
        return [[str(end) for end in both] for both in ends]

    (outcome,) = outcomes(engine, hands, twice)

    assert outcome == [["None", "coroutine is being awaited already"]] * 2
    assert calls == ["reserved"] * 4


class Unbound:
    """As a proxy of a web framework is outside of its requests."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("outside of its context")


def test_what_cannot_be_asked_for_is_raised_where_it_was_awaited(
    engine: Engine, hands: Hands
) -> None:
    unbound: Any = Unbound()

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> None:
        try:
            await gather(unbound)
        finally:
            await note("given back")

    (run_id,) = add_runs(engine, 1)
    hands(flow).run([run_id])

    assert read_runs(engine, [run_id], "outcome")[0].outcome["message"] == "outside of its context"
    assert [name for _, _, name in journal_of(engine, run_id)] == ["note"]


# ---- errors that are no Exception, out of code that is asked in passing


class Panic(BaseException):
    """As those of extensions written in Rust are."""


class Checked(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number")
    @classmethod
    def check(cls, number: int) -> int:
        raise Panic(number)


class Dumped:
    def model_dump(self, mode: str) -> Any:
        raise Panic(mode)


class NoArgs(Exception):
    @property
    def args(self) -> Any:
        raise Panic("no args")

    @args.setter
    def args(self, value: Any) -> None: ...


def test_a_panic_fails_its_own_run_only(engine: Engine, hands: Hands) -> None:
    @step(retries=0)
    def checked() -> Checked:
        return {"number": 13}  # type: ignore[return-value]

    @step(retries=0)
    def dumped() -> Any:
        return Dumped()

    @workflow(name="fulfil", retries=0, key=lambda event: event.data)
    async def flow(event: Event[Any]) -> Any:
        if event.data == "checked":
            return await checked()
        if event.data == "dumped":
            return await dumped()
        if event.data == "argument":
            return await note(Dumped())
        raise NoArgs

    kinds = ["checked", "dumped", "argument", "raised"]
    run_ids = [add_runs(engine, 1, data=f'"{kind}"')[0] for kind in kinds]
    hands(flow).run(run_ids)

    rows = {row.key: row for row in read_runs(engine, run_ids, "key, state, reason")}
    assert (rows["checked"].state, rows["checked"].reason) == ("succeeded", None)
    assert (rows["dumped"].state, rows["dumped"].reason) == ("failed", "unstorable")
    assert rows["argument"].state == "failed"
    assert (rows["raised"].state, rows["raised"].reason) == ("failed", "error")


class Declined(NonRetryable):
    """Asking again does not help."""


def test_what_is_final_is_final_in_a_group(engine: Engine, hands: Hands) -> None:
    async def ask() -> None:
        raise Declined("no card")

    @step
    async def asks() -> None:
        calls.append("asked")
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            outer.create_task(asyncio.sleep(9))
            inner.create_task(ask())

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        await asks()

    (outcome,) = outcomes(engine, hands, flow)

    assert (outcome["type"], calls) == ("ExceptionGroup", ["asked"])


# ---- what a workflow may be made of


class Order(msgspec.Struct):
    sku: str


def test_a_partial_has_the_input_type_of_its_event(engine: Engine, hands: Hands) -> None:
    async def sells(shop: str, event: Event[Order]) -> str:
        return f"{event.data.sku} of {shop}"

    (run_id,) = add_runs(engine, 1, data='{"sku": "lamp"}')
    hands(workflow(name="fulfil")(partial(sells, "north"))).run([run_id])

    assert read_runs(engine, [run_id], "outcome")[0].outcome == "lamp of north"
