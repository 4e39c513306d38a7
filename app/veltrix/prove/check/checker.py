"""The checker: what was promised, held against what was sent, answered and found.

Pure: it reads nothing and asks nobody. Each property names what breaks it, with samples.
"""

from veltrix.prove.check import properties_accept as accept
from veltrix.prove.check import properties_claims as claims
from veltrix.prove.check import properties_runs as runs
from veltrix.prove.check import properties_steps as steps
from veltrix.prove.check import properties_time as time
from veltrix.prove.check import properties_values as values
from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import SAMPLES_MAX, Check, Property, look

__all__ = ["PROPERTIES", "SAMPLES_MAX", "Property", "check"]


def check(case: Case) -> list[Property]:
    """Every property, held or broken."""
    return [look(rule, case) for rule in PROPERTIES]


PROPERTIES: tuple[Check, ...] = (
    accept.accepted_is_stored,
    accept.nothing_invented,
    accept.refused_is_not_stored,
    accept.only_faulty_is_refused,
    accept.events_start_their_runs,
    runs.nothing_left_open,
    runs.settled_once,
    runs.replays_have_their_outcome,
    runs.outcomes_as_expected,
    runs.healthy_runs_are_not_blamed,
    runs.edits_make_runs,
    runs.failures_are_in_their_groups,
    runs.no_zombie_writes,
    claims.steps_begin_under_a_claim,
    claims.handed_runs_are_begun_early_and_by_one,
    claims.attempts_are_counted,
    claims.cancelled_runs_stop,
    claims.limits_end_runs,
    steps.finished_steps_stay_finished,
    steps.steps_wait_for_the_journal,
    steps.journal_is_whole,
    steps.effects_at_least_once,
    steps.transactional_effects_once,
    values.values_are_seen_again,
    values.tenants_are_apart,
    accept.nothing_dropped,
    accept.books_balance,
    time.times_are_the_databases,
    time.commits_are_waited_for,
    time.commits_are_kept,
    time.idle_hands_get_the_work,
    time.faults_are_recovered_from,
)
