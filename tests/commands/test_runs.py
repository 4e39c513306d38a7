"""`veltrix runs`, `run`, `replay run` and `cancel` on rows as workers leave them."""

import json
import time

import pytest
from sqlalchemy import Engine

from tests.commands.conftest import Veltrix
from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.pseudo_terminal import on_terminal
from tests.support.settled import hold, run_sql, settle
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry, Settlement
from veltrix.store.transactions import open_autocommit

NO_RUN = "00000000-0000-0000-0000-000000000000"


def test_runs_lists_those_a_filter_describes_and_says_where_to_go_on(
    veltrix: Veltrix, engine: Engine
) -> None:
    ids = add_runs(engine, 5)
    settle(engine, ids[:2], "failed", reason="error")

    failed = veltrix("runs", "--state", "failed", "--json").json
    first = veltrix("runs", "--limit", "3", "--json").json
    rest = veltrix("runs", "--after", first["next"], "--json").json
    text = veltrix("runs", "--state", "failed")

    assert [run["id"] for run in failed["items"]] == ids[1::-1]
    assert [run["id"] for run in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next"] is None
    assert len(text.lines) == 3
    assert "error" in text.lines[1]


@pytest.mark.parametrize("since", ["1h", "2000-01-01", "2000-01-01T00:00:00Z"])
def test_a_time_is_a_moment_or_an_age(veltrix: Veltrix, engine: Engine, since: str) -> None:
    add_runs(engine, 1)

    assert len(veltrix("runs", "--since", since, "--json").json["items"]) == 1
    assert veltrix("runs", "--until", since, "--json").json["items"] == []


@pytest.mark.parametrize("since", ["yesterday", "1y", "999999999d", "2026-13-01"])
def test_what_is_no_time_is_wrong_use(veltrix: Veltrix, since: str) -> None:
    ran = veltrix("runs", "--since", since)

    assert ran.code == 2
    assert "is no time" in ran.err


def test_run_tells_the_whole_story(veltrix: Veltrix, engine: Engine) -> None:
    (id_,) = add_runs(engine, 1)
    entry = JournalEntry(id_, "1", "step", "charge", output='"paid \\u001b[31m"')
    settle(engine, [id_], "succeeded", [entry], outcome='{"n": 1}')

    story = veltrix("run", id_, "--json").json
    text = veltrix("run", id_)

    assert story["state"] == "succeeded"
    assert [step["name"] for step in story["steps"]] == ["charge"]
    assert story["outcome"] == {"n": 1}
    assert "charge" in text.out
    assert "\x1b" not in text.out, "what others wrote must not steer a terminal"


def test_run_watches_until_the_outcome(veltrix: Veltrix, engine: Engine) -> None:
    (id_,) = add_runs(engine, 1)
    settle(engine, [id_], "succeeded", outcome="1")

    ran = veltrix("run", id_, "--watch")

    assert ran.code == 0
    assert ran.lines[0].startswith("succeeded")


def test_no_such_run_is_a_finding_and_no_id_is_wrong_use(veltrix: Veltrix) -> None:
    assert veltrix("run", NO_RUN).code == 1
    assert veltrix("run", "order-7").code == 2


def test_replay_takes_failed_runs_with_author_and_reason_and_names_the_others(
    veltrix: Veltrix, engine: Engine
) -> None:
    failed, queued = add_runs(engine, 2)
    settle(engine, [failed], "failed", reason="error")

    ran = veltrix(
        "replay", "run", failed, queued, NO_RUN, "--reason", "again", "--author", "ann", "--json"
    )

    assert ran.code == 1, "two of them cannot be replayed"
    assert ran.json == {
        "replayed": [{"run_id": failed, "generation": 1, "steps_kept": 0}],
        "not_replayed": [{"run_id": NO_RUN, "state": None}, {"run_id": queued, "state": "queued"}],
    }
    story = veltrix("run", failed, "--json").json
    assert [(a["action"], a["author"], a["reason"]) for a in story["actions"]] == [
        ("replay.failed_step", "ann", "again")
    ]


def test_replay_of_a_workflow_takes_all_its_failed_runs_and_no_other(
    veltrix: Veltrix, engine: Engine
) -> None:
    mine = add_runs(engine, 1_200, workflow="mine")
    (other,) = add_runs(engine, 1, workflow="other")
    for first in range(0, 1_200, 400):
        settle(engine, mine[first : first + 400], "failed", reason="error")
    settle(engine, [other], "failed", reason="error")

    ran = veltrix("replay", "run", "--failed-of", "mine", "--reason", "r", "--yes", "--json")

    assert ran.code == 0
    assert sorted(one["run_id"] for one in ran.json["replayed"]) == mine
    assert {row.state for row in read_runs(engine, mine, "state")} == {"queued"}
    assert read_runs(engine, [other], "state")[0].state == "failed"


def test_replay_of_a_workflow_asks_first(veltrix: Veltrix, engine: Engine) -> None:
    (id_,) = add_runs(engine, 1)
    settle(engine, [id_], "failed", reason="error")

    ran = veltrix("replay", "run", "--failed-of", "fulfil", "--reason", "r")

    assert ran.code == 1, "nobody answered"
    assert "Replay 1 failed runs?" in ran.err
    assert read_runs(engine, [id_], "state")[0].state == "failed"


@pytest.mark.parametrize("arguments", [[], [NO_RUN, "--failed-of", "fulfil"]])
def test_replay_needs_runs_or_a_workflow_and_always_a_reason(
    veltrix: Veltrix, arguments: list[str]
) -> None:
    assert veltrix("replay", "run", *arguments, "--reason", "r").code == 2
    assert veltrix("replay", "run", NO_RUN).code == 2


def test_cancel_ends_what_is_open_asks_for_what_is_in_hand_and_names_the_settled(
    veltrix: Veltrix, engine: Engine
) -> None:
    queued, running, done = add_runs(engine, 3)
    hold(engine, [running])
    settle(engine, [done], "succeeded", outcome="1")

    ran = veltrix("cancel", queued, running, done, "--reason", "withdrawn", "--json")

    assert ran.code == 1
    assert ran.json == {
        "cancelled": [{"run_id": queued}],
        "requested": [{"run_id": running}],
        "not_cancelled": [{"run_id": done, "state": "succeeded"}],
    }
    assert read_runs(engine, [queued], "state")[0].state == "cancelled"


def test_balance_is_fine_while_the_books_balance_and_exit_code_1_when_not(
    veltrix: Veltrix, engine: Engine
) -> None:
    ids = add_runs(engine, 3)
    fine = veltrix("balance", "--json")
    text = veltrix("balance")

    assert fine.code == text.code == 0
    assert fine.json["runs"]["started"] == fine.json["runs"]["open"] == 3
    assert "3 accepted = 3 routed + 0 unrouted" in text.out

    change_runs(engine, ids[:1], "state = 'succeeded', due_at = null, settled_at = now()")
    wrong = veltrix("balance", "--json")
    assert wrong.code == 1
    assert wrong.json["unaccounted"] == 1

    change_runs(engine, ids[:1], "state = 'queued', due_at = now(), settled_at = null")
    assert veltrix("balance").code == 0


def test_run_tells_when_steps_began_and_with_what_arguments(
    veltrix: Veltrix, engine: Engine
) -> None:
    (id_,) = add_runs(engine, 1)
    token, now = hold(engine, [id_]), time.monotonic()
    entry = JournalEntry(id_, "1.0.1", "step", "quote", output='"dhl"', began=now, took_ms=1_234)
    entry.arguments = '[["dhl"],{"weight":2.5}]'
    failed = FailedAttempt(id_, "1.1.1", "quote", 1, "Declined", "no", "", "f1", 0.75)
    failed.arguments = '[["ups"],{}]'
    with open_autocommit(engine) as tx:
        waits = Settlement(run_id=id_, state="waiting", wait_s=60.0)
        journal_rows.write(tx, token, "worker", [entry], [failed], [waits], now)

    told = veltrix("run", id_).lines

    assert [line.split() for line in told if line.startswith(("attempt ", "claims "))] == [
        ["attempt", "1"],
        ["claims", "1"],
    ]
    (done,) = (line for line in told if "1.0.1" in line)
    assert '"dhl", weight=2.5' in done
    assert "1,234 ms" in done
    (tried,) = (line for line in told if "1.1.1" in line)
    assert '"ups"' in tried
    assert "750 ms" in tried


def test_nothing_that_a_sender_wrote_steers_a_terminal(engine: Engine, database_url: str) -> None:
    hostile = "\u009b31m\u202etxt\u200b\x7f\N{TAG LATIN SMALL LETTER A}\u00e9"
    (run_id,) = add_runs(engine, 1)
    run_sql(engine, f"update runs set key = '{hostile}'")
    ways = (
        ["runs", "--json"],
        ["run", run_id, "--json"],
        ["runs"],
        ["run", run_id, "--x", hostile],
    )

    for arguments in ways:
        with on_terminal(arguments, VELTRIX_DATABASE_URL=database_url) as terminal:
            terminal.code()
        steering = [c for c in terminal.shown if not c.isprintable() and c not in "\r\n"]
        assert steering == [], arguments
        if arguments[-1] == "--json":
            assert "\\u009b31m\\u202etxt\\u200b\\u007f\\udb40\\udc61\u00e9" in terminal.shown
            assert json.loads(terminal.shown), arguments
