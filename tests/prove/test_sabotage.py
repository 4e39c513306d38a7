"""Each known way to lose, double or forget work is seen, by the property that it breaks."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from tests.prove.conftest import Prove
from tests.support.due_runs import add_runs, read_runs
from tests.support.settled import hold
from veltrix.pipeline.execute import journal_rows, journal_statement, lease_rows
from veltrix.pipeline.execute.journal_rows import JournalEntry, Settlement
from veltrix.prove.report.report import Verdict
from veltrix.prove.sabotage.catalog import SABOTAGES, sabotaged
from veltrix.store.transactions import open_autocommit

AUTHORS: dict[str, Any] = {"families": frozenset({"author"}), "events": 1_200, "stall_s": 15.0}
# What each breaks, and what has to happen for it to do harm.
BREAKS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "due_cleared_at_publish": (
        "nothing_left_open",
        ("queue_deleted",),
        {"rate": 2_000, "events": 4_000},
    ),
    "early_ack": ("nothing_left_open", ("parent_killed",), {"rate": 3_000, "events": 6_000}),
    "no_confirms": ("nothing_left_open", (), {}),
    "rescue_off": ("nothing_left_open", ("parent_killed",), {}),
    "answered_before_commit": ("accepted_is_stored", ("api_killed",), {}),
    "identity_forgotten": ("nothing_invented", (), {}),
    "content_normalised": ("accepted_is_stored", (), {}),
    "unrouted_dropped": ("accepted_is_stored", (), {}),
    "conflicts_overwrite": ("refused_is_not_stored", (), {}),
    "settle_without_token": (
        "no_zombie_writes",
        ("worker_frozen",) * 3,  # by chance what one had in hand had nothing to write
        {"events": 3_000},
    ),
    "journal_after_next_step": ("steps_wait_for_the_journal", (), {}),
    "journal_forgotten": ("finished_steps_stay_finished", ("child_killed",), {}),
    "lease_shorter_than_work": ("outcomes_as_expected", (), {}),
    "key_per_attempt": ("effects_at_least_once", (), {}),
    "effects_beside_the_transaction": ("transactional_effects_once", (), {}),
    "savepoint_left_out": ("transactional_effects_once", (), {}),
    "shutdown_cancels": (
        "outcomes_as_expected",
        ("worker_terminated",),
        {"rate": 3_000, "events": 2_000},
    ),
    "dead_letters_dropped": ("nothing_dropped", ("malformed_messages",), {}),
    "failures_not_counted": ("books_balance", (), {}),
    "clean_ups_run_when_let_go": ("steps_begin_under_a_claim", (), AUTHORS),
    "values_as_they_were_returned": ("values_are_seen_again", (), AUTHORS),
    "arguments_as_they_are": ("values_are_seen_again", (), AUTHORS),
    "digest_by_hash_order": ("healthy_runs_are_not_blamed", (), AUTHORS),
    "no_gate_before_steps": ("limits_end_runs", (), AUTHORS),
    "limit_forgotten_in_sleep": ("limits_end_runs", (), AUTHORS),
    "one_context_for_all": ("tenants_are_apart", (), AUTHORS),
    "attempts_forgotten": ("attempts_are_counted", (), {}),
    "busy_hands_keep": ("idle_hands_get_the_work", ("hands_full",), {"slack": 1.0, "env": {}}),
    "connections_kept": ("faults_are_recovered_from", ("server_read_only",), {}),
    "sessions_believed": ("commits_are_waited_for", ("options_dropped",), {}),
    "commits_not_waited_for": ("commits_are_waited_for", (), {}),
    "own_clock_believed": ("times_are_the_databases", ("api_fast",), {}),
    "roll_back_not_taken": (
        "events_start_their_runs",
        ("rolled_back",),
        {"families": frozenset({"deploy"}), "events": 3_000, "rate": 25.0, "seconds": 120.0},
    ),
    "errors_are_deaths": ("attempts_are_counted", ("journal_broken",), {}),
    "ends_stumble": ("nothing_unforeseen", (), {}),
    "redelivered_begun": (
        "steps_begin_under_a_claim",  # of two workers under one token, one ended it
        ("connections_closed",) * 3,
        {"rate": 500, "events": 8_000},
    ),
    "open_runs_dropped": (
        "failures_are_in_their_groups",  # failed runs left with it; what the archive has is there
        ("days_dropped",),
        {"events": 9_000, "rate": 120.0},
    ),
    "last_step_left_out": ("journal_is_whole", (), {}),
    "token_believed_for_ever": (
        "steps_begin_under_a_claim",  # the relay took it, and gave it to others
        ("worker_frozen",) * 2,
        {"rate": 2_000, "events": 6_000},
    ),
}


def test_each_sabotage_has_its_test() -> None:
    assert BREAKS.keys() == SABOTAGES.keys()
    assert len(BREAKS) >= 12


def test_each_sabotage_finds_what_it_replaces() -> None:
    switch = (
        "import os, sys; from veltrix.prove.sabotage.catalog import SABOTAGES\n"
        "from veltrix.processes import api, relay, worker; import veltrix.cli\n"
        "for name, switch_on in SABOTAGES.items():\n"
        "    child = os.fork()\n"
        "    if not child: switch_on(); os._exit(0)\n"
        "    if os.waitpid(child, 0)[1]: print(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", switch], capture_output=True, text=True, check=True
    )
    assert done.stdout == "", done.stderr


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a sabotage of writes replaced is as it was, afterwards."""
    for piece in ("_LOCKED", "_MOVED", "_COUNTED"):
        monkeypatch.setattr(journal_statement, piece, getattr(journal_statement, piece))
    monkeypatch.setattr(lease_rows, "_LOCK_HELD", lease_rows._LOCK_HELD)
    journal_statement.statement_of.cache_clear()
    yield
    journal_statement.statement_of.cache_clear()


def test_without_the_token_whoever_comes_writes_whatever_his_list_holds(
    engine: Engine, mended: None
) -> None:
    ending, going_on, alone = add_runs(engine, 3)
    hold(engine, [ending, going_on, alone])
    end = Settlement(run_id=ending, state="succeeded", outcome="1")
    entry = JournalEntry(going_on, "1", "step", "charge")

    SABOTAGES["settle_without_token"]()

    with open_autocommit(engine) as tx:
        assert journal_rows.write(tx, str(uuid4()), "w", [entry], [], [end]).keys() == {
            ending,
            going_on,
        }
        last = Settlement(run_id=alone, state="succeeded", outcome="1")
        assert journal_rows.write(tx, str(uuid4()), "w", [], [], [last]).keys() == {alone}
    states = [row.state for row in read_runs(engine, [ending, going_on, alone], "state")]
    assert states == ["succeeded", "running", "succeeded"]


def test_failures_are_not_counted_and_successes_are(engine: Engine, mended: None) -> None:
    good, bad = add_runs(engine, 2)
    token = hold(engine, [good, bad])
    ends = [
        Settlement(run_id=good, state="succeeded"),
        Settlement(run_id=bad, state="failed", reason="step_failed"),
    ]

    SABOTAGES["failures_not_counted"]()

    with open_autocommit(engine) as tx:
        journal_rows.write(tx, token, "w", [], [], ends)
        counts = "select sum(succeeded), sum(failed) from counter_deltas"
        assert tuple(tx.execute(text(counts)).one()) == (1, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BREAKS)
def test_sabotage_is_seen(proved: Prove, name: str) -> None:
    broken, faults, options = BREAKS[name]

    proof = proved(
        *faults,
        **{"events": 600, "stall_s": 8.0, "slack": 0.3, **options},
        command_of=sabotaged(name),
    )

    assert proof.verdict is Verdict.BROKEN
    found = {one.name: one.samples for one in proof.properties if one.broken}
    assert broken in found, found
