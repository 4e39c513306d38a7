"""Replay: failed runs run again, what finished is kept, and nothing else is touched."""

from collections.abc import Sequence
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.settled import hold, settle
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import balance
from veltrix.operations.replays.move import NotReplayed, Replayed, repeated, replay
from veltrix.operations.replays.rules import GENERATION_MAX, SPENT
from veltrix.operations.runs.action_rows import FailedRun, Recorded
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.journal_rows import JournalEntry
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import open_autocommit

UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
ERROR = '{"type": "Declined", "message": "no"}'


def entry(run_id: str, position: str, error: str | None = None, **more: Any) -> JournalEntry:
    given = {"kind": "step", "name": f"step {position}", "output": None if error else position}
    return JournalEntry(run_id, position, error=error, **(given | more))


def fail(engine: Engine, run_ids: Sequence[str], *entries: JournalEntry, **changes: Any) -> None:
    settle(engine, run_ids, "failed", entries, **({"reason": "error"} | changes))


def past(engine: Engine, run_id: str) -> dict[str, JournalEntry]:
    """What the next worker finds of the run."""
    with open_autocommit(engine) as tx:
        claims = lease_rows.claim(tx, UNKNOWN, "worker", [(run_id, run_id)], hold_s=8.0)
        return journal_rows.past(tx, claims)[run_id].entries


def test_a_failed_run_is_queued_again_as_new_in_its_next_generation(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    fail(engine, ids, outcome=ERROR, fingerprint="f", failed_step="charge")
    change_runs(engine, ids, "crashes = 2, alone = true, cancel_requested_at = now()")

    answers = replay(engine, ids, ReplayMode.BEGINNING, "payments are back", "operator")

    assert answers == [Replayed(ids[0], 1, 0)]
    columns = (
        "state, generation, attempt, crashes, alone, cancel_requested_at, settled_at, outcome,"
        " reason, fingerprint, failed_step, claimed_at, hand_overs, due_at <= now()"
    )
    assert tuple(read_runs(engine, ids, columns)[0]) == (
        *("queued", 1, 0, 0, False),
        *(None,) * 7,
        *(0, True),
    )


def test_a_run_that_was_replayed_as_often_as_can_be_stops_no_other(engine: Engine) -> None:
    ids = add_runs(engine, 3)
    fail(engine, ids, entry(ids[1], "0"))
    change_runs(engine, ids[:1], f"generation = {GENERATION_MAX}")

    answers = replay(engine, ids, ReplayMode.FAILED_STEP, "again", "me")

    assert answers == [
        NotReplayed(ids[0], "failed", SPENT),
        Replayed(ids[1], 1, 1),
        Replayed(ids[2], 1, 0),
    ]
    assert [tuple(row) for row in read_runs(engine, ids, "state, generation")] == [
        ("failed", GENERATION_MAX),
        ("queued", 1),
        ("queued", 1),
    ]


def test_who_replayed_and_why_is_kept(engine: Engine) -> None:
    ids = add_runs(engine, 2)
    fail(engine, ids)

    replay(engine, ids, ReplayMode.FAILED_STEP, "payments are back", "operator")

    with open_autocommit(engine) as tx:
        rows = tx.exec_driver_sql(
            "select run_id::text, action, generation, author, reason from actions order by run_id"
        ).all()
    assert [tuple(row) for row in rows] == [
        (id_, "replay.failed_step", 1, "operator", "payments are back") for id_ in sorted(ids)
    ]


def test_every_run_of_the_list_is_answered_in_order_and_only_failed_ones_move(
    engine: Engine,
) -> None:
    failed, succeeded, queued, running = (add_runs(engine, 1)[0] for _ in range(4))
    fail(engine, [failed])
    settle(engine, [succeeded], "succeeded")
    hold(engine, [running])

    asked = [running, "no id", UNKNOWN, queued, failed, succeeded, failed.upper()]
    answers = replay(engine, asked, ReplayMode.BEGINNING, "again", "me")

    expected: list[Replayed | NotReplayed] = [
        Replayed(failed, 1, 0),
        NotReplayed(succeeded, "succeeded"),
        NotReplayed(queued, "queued"),
        NotReplayed(running, "running"),
        NotReplayed(UNKNOWN, None),
        NotReplayed("no id", None),
    ]
    assert answers == sorted(expected, key=lambda answer: answer.run_id)
    assert [row[0] for row in read_runs(engine, [succeeded, queued, running], "state")] == [
        "succeeded",
        "queued",
        "running",
    ]


def test_from_the_failed_step_what_finished_before_is_kept(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    fail(
        engine,
        ids,
        entry(ids[0], "0"),
        entry(ids[0], "1", kind="value", name="now"),
        entry(ids[0], "2", kind="sleep", name="sleep"),
        entry(ids[0], "3", ERROR, name="charge"),
        entry(ids[0], "4", name="refund"),
        failed_step="charge",
    )

    answers = replay(engine, ids, ReplayMode.FAILED_STEP, "again", "me")

    assert answers == [Replayed(ids[0], 1, 3)]
    found = past(engine, ids[0])
    assert sorted(found) == ["0", "1", "2"]
    assert [found[p].kind for p in ("0", "1", "2")] == ["step", "value", "sleep"]
    assert found["0"].output == "0"


def test_a_kept_sleep_began_when_it_began(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    fail(engine, ids, entry(ids[0], "0", kind="sleep", name="sleep"))

    replay(engine, ids, ReplayMode.FAILED_STEP, "again", "me")

    with open_autocommit(engine) as tx:
        rows = tx.exec_driver_sql(
            f"select generation, recorded_at from {JOURNAL_OF} j order by 1"
        ).all()
    assert [row[0] for row in rows] == [0, 1]
    assert rows[0][1] == rows[1][1]


def test_from_the_beginning_nothing_is_kept_and_the_evidence_stays(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    fail(engine, ids, entry(ids[0], "0"), entry(ids[0], "1", ERROR))

    assert replay(engine, ids, ReplayMode.BEGINNING, "again", "me") == [Replayed(ids[0], 1, 0)]

    assert past(engine, ids[0]) == {}
    with open_autocommit(engine) as tx:
        old = tx.exec_driver_sql(
            f"select generation, position from {JOURNAL_OF} j order by 2"
        ).all()
    assert [tuple(row) for row in old] == [(0, "0"), (0, "1")]


def test_a_run_can_be_replayed_again_and_again(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    fail(engine, ids, entry(ids[0], "0"), entry(ids[0], "1", ERROR, name="x"), failed_step="x")

    for generation in (1, 2, 3):
        assert replay(engine, ids, ReplayMode.FAILED_STEP, "again", "me") == [
            Replayed(ids[0], generation, 1)
        ]
        again = entry(ids[0], "1", ERROR, name="x")
        fail(engine, ids, again, failed_step="x")

    assert balance(engine).runs.failed == 1
    assert balance(engine).unaccounted == 0


def test_two_operators_replay_a_run_once(engine: Engine) -> None:
    ids = add_runs(engine, 50)
    fail(engine, ids)
    answers: list[Replayed | NotReplayed] = []

    def ask() -> None:
        answers.extend(replay(engine, ids, ReplayMode.BEGINNING, "again", "me"))

    threads = [Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(isinstance(answer, Replayed) for answer in answers) == 50
    assert {answer.state for answer in answers if isinstance(answer, NotReplayed)} == {"queued"}
    assert {row[0] for row in read_runs(engine, ids, "generation")} == {1}
    assert balance(engine).unaccounted == 0


def test_a_thousand_runs_are_one_list_and_more_are_refused(engine: Engine) -> None:
    ids = add_runs(engine, 1_000)
    fail(engine, ids, *(entry(id_, "0") for id_ in ids))

    assert replay(engine, ids, ReplayMode.FAILED_STEP, "again", "me") == [
        Replayed(id_, 1, 1) for id_ in sorted(ids)
    ]
    with pytest.raises(ValueError, match="at most 1,000"):
        replay(engine, [*ids, UNKNOWN], ReplayMode.BEGINNING, "again", "me")


def positions(
    journal_: dict[str, str], failed_step: str | None, reason: str = "error"
) -> list[str]:
    """What is run again of a journal {position: name}; a name that ends in `!` failed for good."""
    recorded = [
        Recorded(position, name.rstrip("!"), name.endswith("!"))
        for position, name in journal_.items()
    ]
    return repeated(recorded, FailedRun("id", 0, reason, failed_step))


def test_an_error_that_the_workflow_dealt_with_stays_recorded() -> None:
    journal_ = {"0": "charge!", "1": "charge_elsewhere", "2": "ship!"}

    assert positions(journal_, "ship") == ["2"]


def test_of_two_failures_of_one_step_the_last_is_the_one() -> None:
    assert positions({"0": "charge!", "1": "wait", "2": "charge!"}, "charge") == ["2"]


def test_a_workflow_that_raised_for_a_failed_step_runs_that_step_again() -> None:
    assert positions({"0": "reserve", "1": "charge!", "2": "release"}, None) == ["1", "2"]


def test_a_run_that_no_step_failed_keeps_its_whole_journal() -> None:
    journal_ = {"0": "charge!", "1": "charge_elsewhere"}

    assert positions(journal_, None, reason="timeout") == []
    assert positions(journal_, "huge", reason="unstorable") == []
    assert positions({"0": "reserve"}, None) == []


def test_branches_beside_the_failed_one_keep_what_they_finished() -> None:
    journal_ = {"0": "a", "1.0.0": "b", "1.1.0": "c!", "1.1.1": "d", "1.2.0": "e", "2": "f"}

    assert positions(journal_, "c") == ["1.1.0", "1.1.1", "2"]


def test_branches_that_failed_beside_the_failed_one_run_again_too() -> None:
    journal_ = {"0.0.0": "a!", "0.1.0": "b", "0.1.1": "c!", "0.2.0": "d"}

    assert positions(journal_, "a") == ["0.0.0", "0.1.1"]


def test_a_failure_after_parallel_branches_keeps_their_errors() -> None:
    journal_ = {"0.0.0": "a!", "0.1.0": "b", "1": "c!", "10": "d", "2": "e"}

    assert positions(journal_, "c") == ["1", "10", "2"]
