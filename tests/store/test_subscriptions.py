"""Subscriptions: since when a type starts a workflow, and whose row counts during a deploy."""

import time
from datetime import datetime

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import subscribe, subscription
from veltrix.domain import ids
from veltrix.releases import subscription_rows
from veltrix.releases.subscription_rows import SuffixTaken, current, register, retire
from veltrix.store.transactions import open_autocommit, transaction


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
    monkeypatch.setattr(subscription_rows, "workflow_suffix", lambda _: ids.workflow_suffix("w"))

    with transaction(engine) as tx, pytest.raises(SuffixTaken, match="rename"):
        register(tx, [subscription("v")])


def test_old_releases_cost_nothing(engine: Engine) -> None:
    with transaction(engine) as tx:
        tx.execute(
            text(
                "insert into subscriptions"
                " (workflow, code_version, types, queue, options, input_schema)"
                " select 'wf-' || w, 'release-' || v, array['shop.' || w], 'q', '{}',"
                " json_build_object('properties', repeat('x', 1000))"
                " from generate_series(1, 100) w, generate_series(1, 300) v"
            )
        )
    with open_autocommit(engine) as tx:
        tx.execute(text("vacuum analyze subscriptions"))
        took = []
        for read in (current, subscription_rows.routes) * 3:
            began = time.monotonic()
            assert len(read(tx)) == 100
            took.append(time.monotonic() - began)

    assert min(took) < 0.1


def test_only_the_newest_versions_are_kept_and_those_that_say_what_is_older(
    engine: Engine,
) -> None:
    for number in range(6):
        subscribe(engine, subscription("w", "a", code_version=f"v{number}"))
    subscribe(engine, subscription("x", "a"))
    with transaction(engine) as tx:
        tx.execute(
            text(
                "insert into failure_groups (id, kind, workflow, state, resolved_version, count,"
                " archived, total, first_seen_at, last_seen_at)"
                " values ('g', 'run', 'w', 'resolved', 'v1', 0, 0, 0, now(), now())"
            )
        )
        assert subscription_rows.forget(tx, versions_kept=2) == 3
        kept = tx.execute(text("select code_version from subscriptions where workflow = 'w'"))

        assert {row[0] for row in kept} == {"v1", "v4", "v5"}
        assert len(current(tx)) == 2


def test_what_older_code_takes_up_again_is_current_though_it_never_was(engine: Engine) -> None:
    subscribe(engine, subscription("w", "a"))
    with transaction(engine) as tx:
        subscription_rows.write(tx, [subscription("w", "a", code_version="v2")], is_kept=True)
        retire(tx, ["w"])
    with transaction(engine) as tx:  # as it did before there was `current_at`
        tx.execute(text("update subscriptions set retired_at = null where code_version = 'v2'"))

    with transaction(engine) as tx:
        (routed,) = subscription_rows.routed(tx)

    assert (version(engine, "w"), routed.code_version) == ("v2", "v2")
