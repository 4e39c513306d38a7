"""Every Python block of docs/how-to/writing-workflows.md runs in the engine, and says the truth."""

import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.hands import TestHands
from veltrix.authoring.registry import load_workflows
from veltrix.authoring.workflows import Workflow
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import transaction

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "writing-workflows.md"
NAME = "writing_workflows_page"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """All Python blocks of the page, in its order, as one module."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path_factory.mktemp("page") / f"{NAME}.py"
    file.write_text("\n\n".join(blocks))
    spec = importlib.util.spec_from_file_location(NAME, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[NAME]


@pytest.fixture
def hands(engine: Engine, page: ModuleType) -> Iterator[TestHands]:
    hands = TestHands(engine, list(load_workflows(NAME).values()))
    yield hands
    hands.close()


def run(engine: Engine, hands: TestHands, workflow: Workflow, data: object) -> tuple[str, Any, Any]:
    """State, outcome and reason of one run with this data."""
    run_ids = add_runs(engine, 1, workflow=workflow.name, data=json.dumps(data))
    hands.run(run_ids)
    state, outcome, reason = read_runs(engine, run_ids, "state, outcome, reason")[0]
    return state, outcome, reason


def test_its_unit_tests_pass(page: ModuleType) -> None:
    tests = [f for name, f in inspect.getmembers(page) if name.startswith("test_")]

    for test in tests:
        test()

    assert len(tests) == 2


@pytest.mark.parametrize(
    ("workflow", "data", "outcome"),
    [
        ("fulfil", {"sku": "lamp"}, {"reservation": "one lamp is put aside"}),
        ("refund", {"order": "o-1", "cents": 5}, "5 cents for o-1"),
        ("thank", {"id": "o-1", "cents": 1}, "thank you for order o-1"),
        ("collect", {"id": "o-1", "cents": 100_001}, None),
        ("cheapest", {"sku": "lamp"}, 504 + 704),
    ],
)
def test_its_workflows_run_in_the_engine(
    engine: Engine, hands: TestHands, page: ModuleType, workflow: str, data: object, outcome: object
) -> None:
    found = run(engine, hands, getattr(page, workflow), data)

    assert found == ("succeeded", outcome, None)


def test_when_there_is_nothing_to_do_the_run_succeeds_as_skipped(
    engine: Engine, hands: TestHands, page: ModuleType
) -> None:
    found = run(engine, hands, page.refund, {"order": "o-1"})

    assert found == ("succeeded", None, "skipped")


def test_input_of_another_shape_fails_the_run(
    engine: Engine, hands: TestHands, page: ModuleType
) -> None:
    state, _, reason = run(engine, hands, page.thank, {"id": "o-1", "cents": 0})

    assert (state, reason) == ("failed", "invalid_input")


def test_a_payment_carries_the_idempotency_key_of_its_step(
    engine: Engine, hands: TestHands, page: ModuleType
) -> None:
    _, outcome, _ = run(engine, hands, page.collect, {"id": "o-1", "cents": 5})

    assert outcome.startswith("payment-")


def test_a_booking_is_committed_with_its_record(
    engine: Engine, hands: TestHands, page: ModuleType
) -> None:
    with transaction(engine) as tx:
        page.metadata.create_all(tx)

    found = run(engine, hands, page.settle, {"id": "o-1", "cents": 5})

    assert found == ("succeeded", None, None)
    with transaction(engine) as tx:
        assert tx.execute(text("select * from bookings")).all() == [("o-1", 5)]
        assert (
            tx.execute(text(f"select count(*) from {JOURNAL_OF} j where name = 'book'")).scalar()
            == 1
        )


def test_a_sleep_holds_no_worker_and_time_and_chance_are_recorded(
    engine: Engine, hands: TestHands, page: ModuleType
) -> None:
    run_ids = add_runs(engine, 1, workflow="remind", data='{"order":"o-1"}')
    hands.run(run_ids)
    state, due_in = read_runs(engine, run_ids, "state, due_in")[0]
    assert state == "waiting"
    assert 172_000 < due_in <= 172_800
    with transaction(engine) as tx:  # two days pass
        began = tx.execute(
            text(f"select output from {JOURNAL_OF} j where name = 'now'")
        ).scalar_one()
        tx.execute(text("update journal set recorded_at = recorded_at - interval '2 days'"))
    change_runs(engine, run_ids, "state = 'queued'")

    assert hands.run(run_ids) == {run_ids[0]: "succeeded"}
    assert read_runs(engine, run_ids, "outcome")[0][0]["since"] == began
