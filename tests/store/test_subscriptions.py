"""Subscriptions: since when a type starts a workflow, and whose row counts during a deploy."""

from datetime import datetime

import pytest
from sqlalchemy import Engine

from app.domain import ids
from app.store import subscriptions
from app.store.subscriptions import SuffixTaken, current, register, retire
from app.store.transactions import transaction
from tests.support.accepting import subscribe, subscription


def since(engine: Engine, workflow: str) -> datetime:
    with transaction(engine) as tx:
        found = {row.workflow: row.since for row in current(tx)}[workflow]
    assert found is not None
    return found


def version(engine: Engine, workflow: str) -> str:
    with transaction(engine) as tx:
        return {row.workflow: row.code_version for row in current(tx)}[workflow]


def test_what_is_registered_is_current(engine: Engine) -> None:
    schema = {"type": "object"}
    given = subscription("w", "a.b", "c.*", queue="q", options={"retries": 3}, input_schema=schema)
    with transaction(engine) as tx:
        assert register(tx, [given, subscription("v")]) == ["v", "w"]
    with transaction(engine) as tx:
        v, w = current(tx)

    assert v.types == ()
    assert (w.types, w.queue, w.options, w.input_schema) == (
        ("a.b", "c.*"),
        "q",
        {"retries": 3},
        schema,
    )


def test_registering_again_changes_nothing_and_is_not_new(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a"))
    before = since(engine, "w")
    with transaction(engine) as tx:
        assert register(tx, [subscription("w", "a", queue="other")]) == []

    assert since(engine, "w") == before
    with transaction(engine) as tx:
        assert current(tx)[0].queue == "other"


def test_new_code_for_the_same_types_holds_since_the_old_one_did(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a", "b.*"))
    before = since(engine, "w")
    subscribe(engine, subscription("w", "b.c", code_version="v2"))

    assert version(engine, "w") == "v2"
    assert since(engine, "w") == before


def test_a_gained_type_holds_from_now(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a"))
    before = since(engine, "w")
    subscribe(engine, subscription("w", "a", "b", code_version="v2"))
    gained = since(engine, "w")
    subscribe(engine, subscription("w", "b", code_version="v3"))

    assert gained > before
    assert since(engine, "w") == gained


def test_a_prefix_is_not_covered_by_one_of_its_types(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a.b"))
    before = since(engine, "w")
    subscribe(engine, subscription("w", "a.*", code_version="v2"))

    assert since(engine, "w") > before


def test_a_type_gained_by_the_same_version_holds_from_now(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a"))
    before = since(engine, "w")
    subscribe(engine, subscription("w", "a", "b"))

    assert since(engine, "w") > before


def test_an_old_worker_that_starts_again_removes_no_newer_row(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a"))
    subscribe(engine, subscription("w", "a", code_version="v2"))
    subscribe(engine, subscription("w", "a"))

    assert version(engine, "w") == "v2"


def test_a_retired_workflow_starts_nothing_until_it_is_registered_again(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a"), subscription("v", "a"))
    before = since(engine, "w")
    with transaction(engine) as tx:
        assert retire(tx, ["w", "nobody"]) == ["w"]
        assert [row.workflow for row in current(tx)] == ["v"]
    subscribe(engine, subscription("w", "a"))

    assert since(engine, "w") > before


def test_two_names_with_the_same_run_ids_are_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(engine, subscription("w"))
    monkeypatch.setattr(subscriptions, "workflow_suffix", lambda _: ids.workflow_suffix("w"))

    with transaction(engine) as tx, pytest.raises(SuffixTaken, match="rename"):
        register(tx, [subscription("v")])
