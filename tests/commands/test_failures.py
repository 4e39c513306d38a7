"""`veltrix failures`, `cancel` of many and `audit`: what is shown, done and refused."""

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from tests.support.due_runs import add_runs, read_runs, subscribe
from tests.support.settled import run_sql, settle
from veltrix.domain.dead_letters import DeadLetter
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.pipeline.relay.dead_letters import bury

GROUP = "a" * 16
ERROR = '{"type": "Declined", "message": "no\\u001b[31m money"}'


def fail(engine: Engine, runs: int = 2) -> list[str]:
    ids = add_runs(engine, runs)
    settle(engine, ids, "failed", reason="error", fingerprint=GROUP, outcome=ERROR)
    fold_groups_once(engine)
    return ids


def test_groups_are_listed_shown_and_decided(veltrix: Veltrix, engine: Engine) -> None:
    ids = fail(engine)

    listed = veltrix("failures", "list")
    shown = veltrix("failures", "show", GROUP)
    resolved = veltrix("failures", "resolve", GROUP, "--reason", "mended", "--author", "ann")
    late = veltrix("failures", "ignore", GROUP, "--reason", "tests", "--json")
    again = veltrix("failures", "ignore", GROUP, "--reason", "tests")
    noted = veltrix("failures", "note", GROUP, "the bank says 14:00", "--author", "ann")
    reopened = veltrix("failures", "reopen", GROUP, "--reason", "no")

    assert f"{GROUP}  run   open" in listed.out
    assert "Declined: no\N{REPLACEMENT CHARACTER}[31m money" in listed.out
    assert ids[0] in shown.out
    assert (resolved.code, resolved.lines) == (0, [f"{GROUP}  resolved"])
    assert (late.code, late.json["state"]) == (0, "ignored")
    assert again.code == 1
    assert "is ignored already by" in again.err
    assert (noted.code, reopened.code) == (0, 0)
    told = veltrix("failures", "show", GROUP, "--json").json
    assert (told["state"], told["notes"][0]["text"]) == ("open", "the bank says 14:00")
    assert veltrix("failures", "list", "--state", "ignored", "--json").json["items"] == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "unknown"], 1),
        (["resolve", "unknown", "--reason", "r"], 1),
        (["note", "unknown", "text"], 1),
        (["resolve", GROUP], 2),
        (["list", "--order", "size"], 2),
        (["archive", "--reason", "r"], 2),
        (["archive", "--reason", "r", "--group", GROUP], 1),
        (["archive", "--reason", "r", "--yes", "--group", "unknown"], 1),
    ],
)
def test_what_cannot_be_done_says_so(
    veltrix: Veltrix, engine: Engine, arguments: list[str], code: int
) -> None:
    ids = fail(engine)

    assert veltrix("failures", *arguments).code == code
    assert [row[0] for row in read_runs(engine, ids, "archived_at is null")] == [True, True]


def test_no_version_is_taken_for_what_never_came_to_code(veltrix: Veltrix, engine: Engine) -> None:
    bury(engine, [DeadLetter(queue="orders", reason="rejected")])
    fold_groups_once(engine)
    (letter,) = veltrix("failures", "list", "--json").json["items"]
    resolve = ("failures", "resolve", letter["id"], "--reason", "mended")

    refused = veltrix(*resolve, "--version", "2")

    assert refused.code == 1
    assert "of kind dead_letter, which comes to no code" in refused.err
    assert veltrix(*resolve).code == 0


def test_failed_runs_are_archived_and_restored(veltrix: Veltrix, engine: Engine) -> None:
    ids = fail(engine)

    archived = veltrix("failures", "archive", "--group", GROUP, "--reason", "paid", "--yes")
    listed = veltrix("runs", "--state", "failed", "--json").json["items"]
    put_away = veltrix("runs", "--archived", "--json").json["items"]
    restored = veltrix("failures", "restore", ids[0], "--reason", "not paid", "--json")

    assert (archived.code, archived.lines) == (0, ["archive: 2 runs"])
    assert listed == []
    assert {run["id"] for run in put_away} == set(ids)
    assert (restored.code, restored.json["runs"]) == (0, 1)


def test_counts_are_checked_and_corrected(veltrix: Veltrix, engine: Engine) -> None:
    fail(engine)
    assert veltrix("failures", "check").code == 0
    run_sql(engine, "update failure_groups set count = 7")

    found = veltrix("failures", "check")
    corrected = veltrix("failures", "check", "--correct", "--json")

    assert (found.code, f"{GROUP}  7 booked, 2 rows" in found.out) == (1, True)
    assert corrected.json[0]["booked_count"] == 7
    assert veltrix("failures", "check", "--json").json == []


def test_open_runs_are_cancelled_by_what_they_have_in_common(
    veltrix: Veltrix, engine: Engine
) -> None:
    ids = add_runs(engine, 3)
    reason = ("--reason", "the shop is closed")

    asked = veltrix("cancel", "--workflow", "fulfil", *reason)
    both = veltrix("cancel", ids[0], "--workflow", "fulfil", *reason)
    nobody = veltrix("cancel", "--workflow", "nobody", "--yes", *reason)
    done = veltrix("cancel", "--workflow", "fulfil", "--yes", *reason)

    assert (asked.code, both.code, nobody.code) == (1, 2, 1)
    assert "no run matches the filter" in nobody.err
    assert (done.code, done.lines) == (0, ["cancel: 3 runs"])
    assert veltrix("cancel", *reason).code == 2
    add_runs(engine, 1)
    assert veltrix("cancel", "--all", "--yes", "--json", *reason).json["runs"] == 1


def test_every_command_that_changes_something_takes_a_reason(
    veltrix: Veltrix, engine: Engine
) -> None:
    why = ("--author", "ann", "--reason", "a test")
    subscribe(engine, "score", types=["never.sent"])
    add_runs(engine, 1, type_="shop.old", is_routed=False)
    bury(engine, [DeadLetter(queue="orders", reason="rejected")])
    past = ("--type", "shop.old", "--workflow", "score", "--since", "1h", "--yes")

    veltrix("events", "start", *past, *why)
    veltrix("events", "seen", "1", *why)
    veltrix("workflows", "retire", "score", "--yes", *why)
    veltrix("keys", "create", "shop", "--scope", "events:write", *why)

    rows = veltrix("audit", "--json").json["items"]
    assert [(row["action"], row["author"], row["reason"]) for row in rows[::-1]] == [
        ("event.start", "ann", "a test"),
        ("dead_letter.see", "ann", "a test"),
        ("workflow.retire", "ann", "a test"),
        ("key.create", "ann", "a test"),
    ]


def test_what_was_done_and_refused_is_in_the_audit(veltrix: Veltrix, engine: Engine) -> None:
    ids = add_runs(engine, 1)
    veltrix("cancel", ids[0], "--reason", "withdrawn", "--author", "ann")
    veltrix("cancel", ids[0], "--reason", "again", "--author", "ben")
    veltrix("keys", "create", "shop", "--scope", "events:write", "--author", "ann")
    veltrix("keys", "revoke", "shop", "--author", "ann", "--reason", "leaked")

    rows = veltrix("audit", "--json").json["items"]
    refused = veltrix("audit", "--refused")
    whole = veltrix("audit", str(rows[-1]["id"]))

    assert [(row["action"], row["author"], row["is_refused"]) for row in rows] == [
        ("key.revoke", "ann", False),
        ("key.create", "ann", False),
        ("run.cancel", "ben", True),
        ("run.cancel", "ann", False),
    ]
    assert rows[0]["reason"] == "leaked"
    assert len(refused.lines) == 2
    assert ids[0] in whole.lines
    assert veltrix("audit", "999999").code == 1
    assert veltrix("audit", "--since", "yesterday").code == 2
