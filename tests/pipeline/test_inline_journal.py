"""The journal of a run that one hand began and ended is kept with it, and tells the same story."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.pipeline.conftest import Hands, let_time_pass
from tests.support.due_runs import add_runs, change_runs, read_runs
from veltrix import Event, StepFailed, gather, sleep, step, workflow
from veltrix.pipeline.execute import settle
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import transaction

COLUMNS = (
    "generation, position, kind, name, arguments_digest, output::text, error::text, attempts,"
    " recorded_at is null, began_at is null, took_ms >= 0, arguments"
)


def rows(engine: Engine, run_id: str) -> list[Any]:
    """What is in the table itself."""
    with transaction(engine) as tx:
        sql = f"select {COLUMNS} from journal where run_id = %s order by 1, 2"
        return [tuple(row) for row in tx.exec_driver_sql(sql, (run_id,))]


def told(engine: Engine, run_id: str) -> list[Any]:
    """What readers see."""
    with transaction(engine) as tx:
        sql = f"select {COLUMNS} from {JOURNAL_OF} j where run_id = %s order by 1, 2"
        return [tuple(row) for row in tx.exec_driver_sql(sql, (run_id,))]


@step
def say(what: Any) -> Any:
    return what


@step(retries=0)
def break_(what: str) -> None:
    raise ValueError(what)


@workflow(name="fulfil")
async def mixed(event: Event[Any]) -> list[Any]:
    return await gather(
        say({"b": [1, 2.5, None], "a": 'é "quoted" \\ \u2028'}), say(None), say("done")
    )


def test_both_forms_tell_the_same_story(
    hands: Hands, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline, other = add_runs(engine, 2)
    hands(mixed).run([inline])
    monkeypatch.setattr(settle, "may_be_inline", lambda _entries: False)
    hands(mixed).run([other])

    assert read_runs(engine, [inline, other], "state") == [("succeeded",)] * 2
    assert rows(engine, inline) == []
    assert rows(engine, other) == told(engine, other)
    assert len(told(engine, inline)) == 3
    assert told(engine, inline) == told(engine, other)


@step
def much() -> str:
    return "x" * 9_000


@workflow(name="fulfil")
async def large(event: Event[Any]) -> None:
    await much()


@workflow(name="fulfil")
async def failing(event: Event[Any]) -> None:
    await say("kept")
    await break_("for good")


@workflow(name="fulfil")
async def caught(event: Event[Any]) -> None:
    with suppress(StepFailed):
        await break_("on purpose")


@workflow(name="fulfil")
async def sleeping(event: Event[Any]) -> None:
    await say("before")
    await sleep(3600)
    await say("behind")


@pytest.mark.parametrize(
    ("flow", "entries"), [(large, 1), (failing, 2), (caught, 1), (sleeping, 2)]
)
def test_what_is_large_failed_or_goes_on_has_rows(
    hands: Hands, engine: Engine, flow: Any, entries: int
) -> None:
    (run_id,) = add_runs(engine, 1)
    hands(flow).run([run_id])

    assert len(rows(engine, run_id)) == entries
    assert read_runs(engine, [run_id], "steps") == [(None,)]


def test_a_run_whose_journal_began_with_rows_ends_with_rows(hands: Hands, engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    hands(sleeping).run([run_id])
    let_time_pass(engine, hours=2)
    change_runs(engine, [run_id], "state = 'queued', due_at = now()")
    hands(sleeping).run([run_id])

    assert read_runs(engine, [run_id], "state, steps") == [("succeeded", None)]
    assert [entry[1] for entry in rows(engine, run_id)] == ["1", "2", "3"]
    assert told(engine, run_id) == rows(engine, run_id)


def test_what_was_written_while_it_ran_is_not_written_again_with_its_end(
    hands: Hands, engine: Engine
) -> None:
    seen: list[int] = []

    @step
    async def look(run_id: str) -> None:
        for _ in range(200):
            seen.append(len(await asyncio.to_thread(rows, engine, run_id)))
            if seen[-1]:
                return
            await asyncio.sleep(0.02)

    @workflow(name="fulfil")
    async def two(event: Event[Any]) -> None:
        await say("first")
        await look(ids[0])

    ids = add_runs(engine, 1)
    hands(two).run(ids)

    assert seen[-1] == 1, "the step before was journalled while this one ran"
    assert read_runs(engine, ids, "state, steps") == [("succeeded", None)]
    assert [entry[1] for entry in told(engine, ids[0])] == ["1", "2"]
