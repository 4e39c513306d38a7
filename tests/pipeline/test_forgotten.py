"""What a workflow called and did not await ends its run at once, with the place and the cure."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, journal_of, replayed
from tests.support.due_runs import add_runs, read_runs
from veltrix import Event, gather, sleep, step, workflow

said: list[str] = []
kept: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_said() -> None:
    said.clear()
    kept.clear()


@step(retries=0)
def talk(what: str) -> str:
    said.append(what)
    return what


async def dropped() -> str:
    talk("never")
    await talk("too late")
    return "ok"


async def at_the_end() -> str:
    talk("never")
    return "ok"


async def named() -> str:
    later = talk("never")
    return f"ok {later is None}"


async def held_elsewhere() -> str:
    kept.append(talk("never"))
    await talk("before the end")
    return "ok"


def raise_it() -> None:
    raise ValueError


async def in_an_except() -> str:
    try:
        raise_it()
    except ValueError:
        talk("never")
    return "ok"


async def taken_for_its_result() -> Any:
    return talk("never")["a key"]  # type: ignore[index]


async def given_as_outcome() -> Any:
    return talk("never")


async def in_a_branch() -> str:
    await gather(at_the_end(), talk("said"))
    return "ok"


async def gathered() -> str:
    gather(talk("never"), talk("neither"))
    return "ok"


async def slept() -> str:
    sleep(3600)
    return "ok"


@pytest.mark.parametrize(
    ("forgets", "what", "cure", "heard"),
    [
        (dropped, "step 'talk'", "talk", []),
        (at_the_end, "step 'talk'", "talk", []),
        (named, "step 'talk'", "talk", []),
        (held_elsewhere, "step 'talk'", "talk", ["before the end"]),
        (in_an_except, "step 'talk'", "talk", []),
        (taken_for_its_result, "step 'talk'", "talk", []),
        (given_as_outcome, "step 'talk'", "talk", []),
        (in_a_branch, "step 'talk'", "talk", []),
        (gathered, "gather()", "gather", []),
        (slept, "sleep()", "sleep", []),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_a_forgotten_await_fails_the_run_at_once_with_its_place(
    engine: Engine,
    hands: Hands,
    forgets: Callable[[], Any],
    what: str,
    cure: str,
    heard: list[str],
) -> None:
    @workflow(name="fulfil")
    async def forgetful(event: Event[Any]) -> Any:
        return await forgets()

    (run_id,) = add_runs(engine, 1)

    assert hands(forgetful).run([run_id]) == {run_id: "failed"}
    (row,) = read_runs(engine, [run_id], "outcome")
    first, last = f"{what} was called in test_forgotten.py:", f"write `await {cure}(...)`"
    assert row.outcome["type"] == "ForgottenAwait"
    assert row.outcome["message"].startswith(first), row.outcome["message"]
    assert row.outcome["message"].endswith(last)
    line = int(row.outcome["message"].removeprefix(first).partition(" ")[0])
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert f"{cure}(" in source[line - 1]
    assert said == heard


def test_what_is_awaited_later_or_by_another_is_not_forgotten(engine: Engine, hands: Hands) -> None:
    async def wait_for(call: Any) -> Any:
        return await call

    @workflow(name="fulfil")
    async def late(event: Event[Any]) -> list[Any]:
        first, second = talk("first"), talk("second")
        both: list[Any] = [talk("left"), sleep(0), talk("right")]
        inner = gather(*both)
        found = [await talk("none"), await second, await first]
        found += await gather(wait_for(inner), wait_for(talk("helper")))
        return found

    (run_id,) = add_runs(engine, 1)

    assert hands(late).run([run_id]) == {run_id: "succeeded"}
    (row,) = read_runs(engine, [run_id], "outcome")
    assert row.outcome == ["none", "second", "first", ["left", None, "right"], "helper"]


def test_a_run_that_sleeps_with_a_call_in_hand_goes_on_with_it(
    engine: Engine, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)

    @workflow(name="fulfil")
    async def asleep(event: Event[Any]) -> str:
        call = talk("after the night")
        await sleep(60)
        return await call

    run = replayed(engine, hands, asleep)

    assert (run.state, run.outcome) == ("succeeded", "after the night")
    assert not complaints


def test_a_run_that_raises_with_a_call_in_hand_says_what_it_raised(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil", retries=0)
    async def raises(event: Event[Any]) -> str:
        call = talk("never")
        if event is not None:
            raise ValueError("no such order")
        return await call

    (run_id,) = add_runs(engine, 1)

    assert hands(raises).run([run_id]) == {run_id: "failed"}
    (row,) = read_runs(engine, [run_id], "outcome")
    assert row.outcome == {"type": "ValueError", "message": "no such order"}
    assert journal_of(engine, run_id) == []
