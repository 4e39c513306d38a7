"""Hands of a worker child, for tests of what becomes of the runs in them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.hands import TestHands
from veltrix.authoring.workflows import Workflow
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import transaction

Hands = Callable[..., TestHands]


@pytest.fixture
def hands(engine: Engine) -> Iterator[Hands]:
    """`hands(*workflows, **limits)`: claims and executes runs of these workflows."""
    made: list[TestHands] = []

    def make(*workflows: Workflow, **limits: Any) -> TestHands:
        made.append(TestHands(engine, workflows, **limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


def let_time_pass(engine: Engine, hours: int = 1) -> None:
    """What was journalled, and what failed, was so much longer ago."""
    with transaction(engine) as tx:
        for table, column in (("journal", "recorded_at"), ("failed_attempts", "failed_at")):
            tx.execute(
                text(f"update {table} set {column} = {column} - :h * interval '1 hour'"),
                {"h": hours},
            )


def replayed(engine: Engine, hands: Hands, flow: Any, times: int = 2) -> Any:
    """The run after it slept and was executed again, so many times."""
    (run_id,) = add_runs(engine, 1)
    for _ in range(times):
        change_runs(engine, [run_id], "state = 'queued', due_at = now()")
        let_time_pass(engine)
        hands(flow).run([run_id])
    (run,) = read_runs(engine, [run_id], "state, reason, outcome")
    return run


def claimed_ago(engine: Engine, run_id: str, seconds: float) -> None:
    """The run was first claimed so long ago."""
    with transaction(engine) as tx:
        tx.execute(
            text("update runs set claimed_at = now() - :s * interval '1 second' where id = :id"),
            {"s": seconds, "id": run_id},
        )


def journal_of(engine: Engine, run_id: str) -> list[tuple[str, str, str]]:
    """(position, kind, name) of all that the journal holds of a run."""
    with transaction(engine) as tx:
        rows = tx.execute(
            text(f"select position, kind, name from {JOURNAL_OF} j where run_id = :id order by 1"),
            {"id": run_id},
        )
        return [tuple(row) for row in rows]
