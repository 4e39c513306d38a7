"""Settle: what a lost connection leaves in doubt is found out, and the run goes on."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from tests.support.due_runs import add_runs, read_runs
from tests.support.hands import TestHands
from veltrix import Event, step, workflow
from veltrix.pipeline.execute import settle

calls: list[str] = []


@step(retries=0)
def note(what: str) -> str:
    calls.append(what)
    return what


@workflow(name="fulfil")
async def two_steps(_event: Event[Any]) -> list[str]:
    return [await note("a"), await note("b")]


def ends_its_session_after(
    write: Callable[..., dict[str, bool]], when: int
) -> Callable[..., dict[str, bool]]:
    """The same, but PostgreSQL ends the session when the write of this number is committed."""
    writes = 0

    def written(tx: Connection, *arguments: Any) -> dict[str, bool]:
        nonlocal writes
        held = write(tx, *arguments)
        writes += 1
        if writes == when:
            tx.execute(text("select pg_terminate_backend(pg_backend_pid())"))  # raises
        return held

    return written


@pytest.mark.parametrize("when", [1, 2])
def test_a_write_whose_answer_was_lost_is_not_taken_for_a_lost_lease(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    calls.clear()
    run_ids = add_runs(engine, 3)
    hands = TestHands(engine, [two_steps])
    monkeypatch.setattr(settle, "write", ends_its_session_after(settle.write, when))

    hands.run(run_ids)

    hands.close()
    rows = read_runs(engine, run_ids, "state, attempt, crashes")
    assert [tuple(row) for row in rows] == [("succeeded", 1, 0)] * 3
    assert sorted(calls) == ["a"] * 3 + ["b"] * 3
