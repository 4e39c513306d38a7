"""Each known way to lose, double or forget work is seen, by the property that it breaks."""

from typing import Any

import pytest

from app.prove.report import Verdict
from app.prove.sabotage import SABOTAGES, sabotaged
from tests.prove.conftest import Prove

# What each breaks, and what has to happen for it to do harm.
BREAKS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "due_cleared_at_publish": ("nothing_left_open", ("queue_deleted",), {"rate": 2_000}),
    "early_ack": ("nothing_left_open", ("parent_killed",), {"rate": 3_000, "events": 2_000}),
    "no_confirms": ("nothing_left_open", (), {}),
    "rescue_off": ("nothing_left_open", ("parent_killed",), {}),
    "answered_before_commit": ("accepted_is_stored", ("api_killed",), {}),
    "identity_forgotten": ("nothing_invented", (), {}),
    "content_normalised": ("accepted_is_stored", (), {}),
    "unrouted_dropped": ("accepted_is_stored", (), {}),
    "conflicts_overwrite": ("refused_is_not_stored", (), {}),
    "settle_without_token": ("no_zombie_writes", ("worker_frozen",), {}),
    "journal_after_next_step": ("steps_wait_for_the_journal", (), {}),
    "journal_forgotten": ("finished_steps_stay_finished", ("child_killed",), {}),
    "lease_shorter_than_work": ("outcomes_as_expected", (), {}),
    "key_per_attempt": ("effects_at_least_once", (), {}),
    "effects_beside_the_transaction": ("transactional_effects_once", (), {}),
    "shutdown_cancels": (
        "outcomes_as_expected",
        ("worker_terminated",),
        {"rate": 3_000, "events": 2_000},
    ),
    "dead_letters_dropped": ("nothing_dropped", ("malformed_messages",), {}),
    "failures_not_counted": ("books_balance", (), {}),
}


def test_each_sabotage_has_its_test() -> None:
    assert BREAKS.keys() == SABOTAGES.keys()
    assert len(BREAKS) >= 12


@pytest.mark.slow
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
