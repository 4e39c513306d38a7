"""The checker on evidence made by hand: a good case holds, and each falsified one is seen."""

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.wait import until
from veltrix.prove.check.checker import PROPERTIES, check
from veltrix.prove.check.evidence import (
    Begin,
    Books,
    CheckedEvidence,
    Failed,
    JournalRow,
    StoredEvent,
    StoredRun,
)
from veltrix.prove.check.history import Case
from veltrix.prove.deployment.witness import Move
from veltrix.prove.faults.injections import Blow
from veltrix.prove.load.notes import NOWHERE, Seen
from veltrix.prove.load.record import (
    Archived,
    Asked,
    Edited,
    Line,
    NotedCancel,
    NotedPlan,
    NotedReplay,
    NotedReplaying,
    Told,
    Unanswered,
)

RUN, OTHER = "run-1", "run-2"


def good() -> tuple[list[Line], CheckedEvidence, list[Blow]]:
    """Two events: one with transactional steps, one sent again and refused with other content."""
    record: list[Line] = [
        _asked(1, ["1", "2"], ["d1", "d2"], ["booking", "fast"]),
        Told(1, 1.0, [202, 202], ["e1", "e2"], [False, False]),
        _asked(2, ["2"], ["d2"], ["fast"]),
        Told(2, 2.0, [202], ["e2"], [True]),
        _asked(3, ["2"], ["other"], ["fast"]),
        Told(3, 3.0, [409], [None], [False]),
        _asked(4, ["3"], ["d3"], ["fast"]),
        Unanswered(4, 4.0, "reset"),
        _asked(5, ["4"], ["d4"], ["invalid"], ["no type"]),
        Told(5, 5.0, [400], [None], [False]),
    ]
    evidence = CheckedEvidence(
        events=[
            StoredEvent("e1", "1", "veltrix.prove.booking", "d1", False, 1.0),
            StoredEvent("e2", "2", "veltrix.prove.fast", "d2", False, 1.0),
        ],
        runs=[
            StoredRun(RUN, "e1", "prove_booking", "succeeded", 0, "", False, 2.0),
            StoredRun(OTHER, "e2", "prove_fast", "succeeded", 0, "", False, 2.0),
        ],
        entries=[JournalRow(RUN, 0, p, "step", "touch", True) for p in "12345"]
        + [JournalRow(OTHER, 0, "1", "step", "touch", True)],
        begins=[
            Begin(RUN, "1", f"{RUN}:1", 1, 7, 1.1),
            Begin(RUN, "4", f"{RUN}:4", 1, 7, 1.5),
            Begin(OTHER, "1", f"{OTHER}:1", 1, 7, 1.1),
        ],
        moves=[
            _move(1, RUN, "queued", "running", 1.0, worker="w@h/7"),
            _entry(2, RUN, "1", 1.2),
            _entry(3, RUN, "2", 1.3),
            _entry(4, RUN, "3", 1.4),
            _entry(4, RUN, "4", 1.55),
            _move(5, RUN, "running", "succeeded", 1.6, worker="w@h/7", xid="x"),
            _entry(6, RUN, "5", 1.6, xid="x"),
            _move(7, OTHER, "queued", "running", 1.0, worker="w@h/7"),
            _move(8, OTHER, "running", "succeeded", 1.2, worker="w@h/7", xid="y"),
            _entry(9, OTHER, "1", 1.2, xid="y"),
        ],
        booked=Counter({f"{RUN}:2": 1, f"{RUN}:3": 1}),
        letters=Counter({"letter": 1}),
        books=Books(2, 2, 0, 2, 2, 0, 0),
    )
    blow = Blow("child_killed", 1.0, at=1.0, healed_at=1.0, recovered_at=1.5, open=2, in_hand=1)
    blow.letters = ["letter"]
    return record, evidence, [blow]


def _asked(
    request: int,
    ids: list[str],
    digests: list[str],
    kinds: list[str],
    flaws: list[str] | None = None,
) -> Asked:
    types = [f"veltrix.prove.{kind}" for kind in kinds]
    return Asked(request, 0.0, "api", "batch", ids, digests, types, flaws or [""] * len(ids))


def _move(seq: int, run: str, old: str, new: str, at: float, *, worker: str, xid: str = "") -> Move:
    return Move(seq, run, 0, "move", old, new, worker, "veltrix worker 7 w@h", xid or str(seq), at)


def _entry(seq: int, run: str, position: str, at: float, *, xid: str = "") -> Move:
    who = "veltrix worker 7 w@h transactions"
    return Move(seq, run, 0, "entry", position, "", "", who, xid or str(seq), at)


def broken(record: list[Line], evidence: CheckedEvidence, blows: list[Blow]) -> set[str]:
    """The names of the properties that do not hold."""
    return {one.name for one in check(Case(record, evidence, blows)) if one.broken}


def test_a_good_case_holds() -> None:
    record, evidence, blows = good()
    found = check(Case(record, evidence, blows))

    assert {one.name: one.samples for one in found if not one.is_held} == {}
    assert len(found) == len(PROPERTIES)


def handed_over() -> tuple[list[Line], CheckedEvidence, list[Blow]]:
    """The good case; the second run is begun as claimed, and only its end is written."""
    record, evidence, blows = good()
    evidence.moves[7:9] = [_ended_as_handed(8, 1.2)]
    return record, evidence, blows


def _ended_as_handed(seq: int, at: float, worker: str = "w@h/7") -> Move:
    return _move(seq, OTHER, "queued", "succeeded", at, worker=worker, xid="y")._replace(
        was_leased=True
    )


def test_a_run_that_was_handed_over_as_claimed_was_begun_under_that() -> None:
    assert broken(*handed_over()) == set()


def test_a_run_that_was_not_handed_over_is_not_begun_without_a_claim() -> None:
    record, evidence, blows = handed_over()
    evidence.moves[7] = evidence.moves[7]._replace(was_leased=False)

    assert "steps_begin_under_a_claim" in broken(record, evidence, blows)


def test_a_run_that_was_handed_over_is_settled_by_who_began_it() -> None:
    record, evidence, blows = handed_over()
    evidence.moves[7] = _ended_as_handed(8, 1.2, worker="w@h/9")

    assert "no_zombie_writes" in broken(record, evidence, blows)


@pytest.mark.parametrize(("pid", "at"), [(9, 1.15), (7, 7.0)])
def test_a_run_that_was_handed_over_is_begun_by_one_and_in_time(pid: int, at: float) -> None:
    record, evidence, blows = handed_over()
    if at > 5:
        evidence.begins.pop()
        evidence.moves[7] = _ended_as_handed(8, at + 0.1)
    evidence.begins.append(Begin(OTHER, "1", f"{OTHER}:1", 1, pid, at))

    assert "handed_runs_are_begun_early_and_by_one" in broken(record, evidence, blows)


def test_who_began_what_was_taken_from_it_goes_by_its_own_name() -> None:
    """Under another name it would be idle for as long as it has what it claimed."""
    record, evidence, blows = handed_over()
    taken = _move(8, OTHER, "queued", "queued", 1.2, worker="")
    evidence.moves[7] = taken._replace(application="veltrix-relay", was_leased=True)

    moves = Case(record, evidence, blows).moves_of[OTHER]

    assert [(move.new_state, move.worker_id) for move in moves[:2]] == [
        ("running", "w@h/7"),
        ("queued", ""),
    ]


def test_a_child_may_end_before_the_first_line_of_one_step() -> None:
    record, evidence, blows = good()
    evidence.failed.append(Failed(OTHER, 0, "1", 2, "WorkerCrashed", "w@h/7"))

    assert broken(record, evidence, blows) == set()


def test_an_attempt_begins_again_where_its_claim_was_lost_with_the_server() -> None:
    """Also by the process that had the run before: what it had then was another claim."""
    watched = {"steps_begin_under_a_claim", "attempts_are_counted"}
    for is_forgetful in (True, False):
        record, evidence, (blow, *_) = good()
        blow.at, blow.healed_at, blow.is_forgetful = 1.3, 1.45, is_forgetful
        evidence.moves[-3:] = [
            _move(7, OTHER, "queued", "running", 1.0, worker="w@h/7"),
            _move(8, OTHER, "running", "waiting", 1.1, worker="w@h/7"),
            _move(9, OTHER, "waiting", "queued", 1.3, worker=""),
            _move(10, OTHER, "queued", "running", 1.5, worker="w@h/7"),
            _move(11, OTHER, "running", "succeeded", 1.6, worker="w@h/7", xid="y"),
            _entry(12, OTHER, "1", 1.6, xid="y"),
        ]
        evidence.begins += [Begin(OTHER, "1", f"{OTHER}:1", 2, 7, at) for at in (1.4, 1.52)]
        evidence.failed.append(Failed(OTHER, 0, "1", 1, "Refused"))

        assert broken(record, evidence, [blow]) & watched == (set() if is_forgetful else watched)


def test_what_was_not_answered_may_be_there_or_not_but_not_with_another_content() -> None:
    record, evidence, blows = good()
    evidence.books = Books(3, 3, 0, 3, 3, 0, 0)
    evidence.runs.append(StoredRun("run-3", "e3", "prove_fast", "succeeded", 0, "", False, 2.0))
    evidence.moves += [
        _move(10, "run-3", "queued", "running", 1.0, worker="w@h/7"),
        _move(11, "run-3", "running", "succeeded", 1.2, worker="w@h/7"),
    ]
    evidence.moves.append(_entry(12, "run-3", "1", 1.2, xid="11"))
    evidence.entries.append(JournalRow("run-3", 0, "1", "step", "touch", True))
    evidence.begins.append(Begin("run-3", "1", "run-3:1", 1, 7, 1.1))

    evidence.events.append(StoredEvent("e3", "3", "veltrix.prove.fast", "d3", False, 1.0))
    assert broken(record, evidence, blows) == set()

    evidence.events[-1] = evidence.events[-1]._replace(digest="d3'")
    assert broken(record, evidence, blows) == {"nothing_invented"}


Falsify = Callable[[list[Line], CheckedEvidence, list[Blow]], object]


def _replaced(items: list, index: int, **changes: object) -> None:  # type: ignore[type-arg]
    items[index] = items[index]._replace(**changes)


def _run_again(evidence: CheckedEvidence) -> None:
    evidence.moves.insert(4, _move(4, RUN, "queued", "running", 1.45, worker="w@h/7"))
    evidence.begins.append(Begin(RUN, "1", f"{RUN}:1", 1, 7, 1.47))


def _renamed(evidence: CheckedEvidence, kind: str) -> None:
    """The second event and its run are of another kind."""
    _replaced(evidence.events, 1, type=f"veltrix.prove.{kind}")
    _replaced(evidence.runs, 1, workflow=f"prove_{kind}")


def _past_its_limit(evidence: CheckedEvidence) -> None:
    _renamed(evidence, "limited_sleep")
    _replaced(evidence.runs, 1, state="failed", reason="timeout", settled_at=20.0)
    _replaced(evidence.moves, 8, new_state="failed", at=20.0)
    _replaced(evidence.moves, 9, at=20.0)
    evidence.begins.append(Begin(OTHER, "1.0.1", f"{OTHER}:1.0.1", 1, 7, 9.0))
    evidence.books = Books(2, 2, 0, 2, 1, 1, 0)


def _cancelled(record: list[Line], evidence: CheckedEvidence) -> None:
    _renamed(evidence, "long")
    record.append(NotedCancel(OTHER, 20.0, "running"))
    _replaced(evidence.runs, 1, state="cancelled", settled_at=30.0)
    _replaced(evidence.moves, 8, new_state="cancelled", at=30.0)
    _replaced(evidence.moves, 9, at=30.0)
    evidence.begins.append(Begin(OTHER, "1.0.1", f"{OTHER}:1.0.1", 1, 7, 29.0))
    evidence.books = Books(2, 2, 0, 2, 1, 0, 1)


def _waits_beside_an_idle_child(evidence: CheckedEvidence, blow: Blow) -> None:
    """The worker child has nothing from 1.6 on, until it takes a run that waited since 1."""
    blow.is_harmless = True
    _replaced(evidence.moves, 7, at=10.0)
    _replaced(evidence.moves, 8, at=10.2)
    _replaced(evidence.moves, 9, at=10.2)
    _replaced(evidence.begins, 2, at=10.1)
    evidence.moves.sort(key=lambda move: (move.at, move.seq))


def _waits_for_the_end_of_its_hold(evidence: CheckedEvidence, blow: Blow) -> None:
    """As before; it was handed over as claimed, nobody began it, and the due scan has it at 9."""
    _waits_beside_an_idle_child(evidence, blow)
    taken = _move(6, OTHER, "queued", "queued", 9.0, worker="")
    evidence.moves.append(taken._replace(application="veltrix-relay", was_leased=True))
    evidence.moves.sort(key=lambda move: (move.at, move.seq))


FALSIFIED: dict[str, tuple[set[str], Falsify]] = {
    "an accepted event is missing": (
        {"accepted_is_stored", "nothing_invented", "books_balance", "only_faulty_is_refused"},
        lambda _r, e, _b: e.events.pop(1),
    ),
    "its content is another": (
        {"accepted_is_stored", "nothing_invented"},
        lambda _r, e, _b: _replaced(e.events, 1, digest="x"),
    ),
    "its id is another": (
        {"accepted_is_stored", "events_start_their_runs", "nothing_invented"},
        lambda _r, e, _b: _replaced(e.events, 1, event_id="e9"),
    ),
    "nobody sent it": (
        {"nothing_invented", "books_balance", "events_start_their_runs"},
        lambda _r, e, _b: e.events.append(
            StoredEvent("e9", "9", "veltrix.prove.fast", "d", False, 1.0)
        ),
    ),
    "what was refused is there": (
        {"refused_is_not_stored", "books_balance", "nothing_invented"},
        lambda _r, e, _b: e.events.append(
            StoredEvent("e4", "4", "veltrix.prove.invalid", "d4", True, 1.0)
        ),
    ),
    "the conflict replaced the event": (
        {"accepted_is_stored", "refused_is_not_stored", "only_faulty_is_refused"},
        lambda _r, e, _b: _replaced(e.events, 1, digest="other"),
    ),
    "a run is missing": (
        {"events_start_their_runs", "books_balance"},
        lambda _r, e, _b: e.runs.pop(1),
    ),
    "a run is open": (
        {"nothing_left_open", "books_balance"},
        lambda _r, e, _b: _replaced(e.runs, 1, state="queued", is_open=True),
    ),
    "a run ended twice": (
        {"settled_once", "no_zombie_writes"},
        lambda _r, e, _b: e.moves.append(
            _move(10, OTHER, "succeeded", "succeeded", 3.0, worker="w@h/7")._replace(
                old_state="running"
            )
        ),
    ),
    "a run failed that should not": (
        {"outcomes_as_expected", "books_balance"},
        lambda _r, e, _b: _replaced(e.runs, 1, state="failed"),
    ),
    "another process wrote the outcome": (
        {"no_zombie_writes"},
        lambda _r, e, _b: _replaced(e.moves, 8, application="veltrix worker 8 w@h"),
    ),
    "another host's process with the same id wrote the outcome": (
        {"no_zombie_writes"},
        lambda _r, e, _b: _replaced(e.moves, 8, application="veltrix worker 7 w@other"),
    ),
    "another process wrote an entry": (
        {"no_zombie_writes"},
        lambda _r, e, _b: _replaced(e.moves, 1, application="veltrix worker 8 w@h"),
    ),
    "a finished step ran again": (
        {"finished_steps_stay_finished", "attempts_are_counted"},
        lambda _r, e, _b: _run_again(e),
    ),
    "a step did not wait for the journal": (
        {"steps_wait_for_the_journal"},
        lambda _r, e, _b: _replaced(e.begins, 1, at=1.35),
    ),
    "a step left no effect": (
        {"effects_at_least_once"},
        lambda _r, e, _b: e.begins.pop(2),
    ),
    "a key was another": (
        {"effects_at_least_once"},
        lambda _r, e, _b: _replaced(e.begins, 2, key="x"),
    ),
    "a transactional effect is there twice": (
        {"transactional_effects_once"},
        lambda _r, e, _b: e.booked.update([f"{RUN}:2"]),
    ),
    "a transactional effect is missing": (
        {"transactional_effects_once"},
        lambda _r, e, _b: e.booked.pop(f"{RUN}:2"),
    ),
    "a message is no row": ({"nothing_dropped"}, lambda _r, e, _b: e.letters.clear()),
    "a counter is wrong": (
        {"books_balance"},
        lambda _r, e, _b: setattr(e, "books", e.books._replace(succeeded=1)),
    ),
    "a replay came to nothing": (
        {"replays_have_their_outcome"},
        lambda r, _e, _b: r.extend(
            [NotedReplaying(RUN, 6.0, "beginning"), NotedReplay(RUN, 7.0, 1)]
        ),
    ),
    "no replay was answered": (
        {"replays_have_their_outcome"},
        lambda r, _e, _b: r.append(NotedReplaying(RUN, 6.0, "beginning")),
    ),
    "a run replayed itself": (
        {"replays_have_their_outcome", "settled_once", "journal_is_whole"},
        lambda _r, e, _b: _replaced(e.runs, 1, generation=1),
    ),
    "a good event was refused": (
        {"only_faulty_is_refused"},
        lambda r, _e, _b: r.extend(
            [_asked(6, ["5"], ["d5"], ["fast"]), Told(6, 6.0, [400], [None], [False])]
        ),
    ),
    "an event was new twice": (
        {"accepted_is_stored"},
        lambda r, _e, _b: r.extend(
            [_asked(6, ["2"], ["d2"], ["fast"]), Told(6, 6.0, [202], ["e2"], [False])]
        ),
    ),
    "an event is there under another source": (
        {"nothing_invented"},
        lambda _r, e, _b: setattr(e, "strangers", 1),
    ),
    "the journal lost an entry": (
        {"journal_is_whole"},
        lambda _r, e, _b: e.entries.pop(),
    ),
    "its own writer ran a step again": (
        {"finished_steps_stay_finished"},
        lambda _r, e, _b: e.begins.append(Begin(RUN, "1", f"{RUN}:1", 1, 7, 1.47)),
    ),
    "a step was begun outside of its run": (
        {"steps_begin_under_a_claim"},
        lambda _r, e, _b: e.begins.append(Begin(RUN, NOWHERE, f"{RUN}:1", 0, 7, 1.47)),
    ),
    "a step began after its process had let go of the run": (
        {"steps_begin_under_a_claim", "effects_at_least_once"},
        lambda _r, e, _b: e.begins.append(Begin(OTHER, "1.0.1", f"{OTHER}:1.0.1", 1, 7, 1.47)),
    ),
    "a step was executed twice as one attempt": (
        {"attempts_are_counted"},
        lambda _r, e, _b: e.begins.append(Begin(OTHER, "1", f"{OTHER}:1", 1, 7, 1.15)),
    ),
    "an attempt failed and nobody kept it": (
        {"attempts_are_counted"},
        lambda _r, e, _b: e.begins.append(Begin(OTHER, "1", f"{OTHER}:1", 2, 7, 1.15)),
    ),
    "an attempt was kept that never began": (
        {"attempts_are_counted"},
        lambda _r, e, _b: e.failed.append(Failed(OTHER, 0, "1", 2, "NotedPlan")),
    ),
    "two attempts ended with one child and neither began": (
        {"attempts_are_counted"},
        lambda _r, e, _b: e.failed.extend(
            Failed(OTHER, 0, "1", attempt, "WorkerCrashed", "w@h/7") for attempt in (2, 3)
        ),
    ),
    "an archived run is not": (
        {"failures_are_in_their_groups"},
        lambda r, _e, _b: r.append(Archived([RUN], 9.0)),
    ),
    "an edit made nothing": (
        {"edits_make_runs"},
        lambda r, _e, _b: r.append(Edited(RUN, "run-9", 9.0)),
    ),
    "a group counts what is not there": (
        {"failures_are_in_their_groups"},
        lambda _r, e, _b: e.groups.update({"run": (1, 0)}),
    ),
    "a planned replay came to nothing": (
        {"replays_have_their_outcome"},
        lambda r, _e, _b: r.append(NotedPlan({RUN: 0}, 9.0)),
    ),
    "a healthy run is called poison": (
        {"healthy_runs_are_not_blamed", "outcomes_as_expected", "books_balance"},
        lambda _r, e, _b: _replaced(e.runs, 1, state="failed", reason="poison"),
    ),
    "a run went on past its limit": (
        {"limits_end_runs"},
        lambda _r, e, _b: _past_its_limit(e),
    ),
    "a run went on after it was cancelled": (
        {"cancelled_runs_stop", "outcomes_as_expected"},
        lambda r, e, _b: _cancelled(r, e),
    ),
    "a value was another the second time": (
        {"values_are_seen_again"},
        lambda _r, e, _b: e.seen.extend([Seen("2", "a float", "1"), Seen("2", "a float", "1.0")]),
    ),
    "a run saw another's tenant": (
        {"tenants_are_apart"},
        lambda _r, e, _b: e.seen.append(Seen("2", "tenant of a step", "1")),
    ),
    "a run without a tenant saw one": (
        {"tenants_are_apart"},
        lambda _r, e, _b: e.seen.append(Seen("2", "tenantless step", "1")),
    ),
    "an event has the time of a wrong clock": (
        {"times_are_the_databases"},
        lambda _r, e, _b: _replaced(e.events, 0, accepted_at=61.0),
    ),
    "an outcome did not wait for the disk": (
        {"commits_are_waited_for"},
        lambda _r, e, _b: _replaced(e.moves, 8, synchronous="off"),
    ),
    "a minute's counter is wrong": (
        {"books_balance"},
        lambda _r, e, _b: e.books_by_minute.update({(1, 2): Books(succeeded=1)}),
    ),
    "a run waited beside an idle child": (
        {"idle_hands_get_the_work"},
        lambda _r, e, b: _waits_beside_an_idle_child(e, b[0]),
    ),
    "a run that was handed over as claimed waited beside an idle child": (
        {"idle_hands_get_the_work"},
        lambda _r, e, b: _waits_for_the_end_of_its_hold(e, b[0]),
    ),
    "something did not come back": (
        {"faults_are_recovered_from"},
        lambda _r, _e, b: setattr(b[0], "error", "worker-1 did not start"),
    ),
    "recovery took too long": (
        {"faults_are_recovered_from"},
        lambda _r, _e, b: setattr(b[0], "recovered_at", 9.0),
    ),
    "there was no recovery": (
        {"faults_are_recovered_from"},
        lambda _r, _e, b: setattr(b[0], "recovered_at", None),
    ),
}


@pytest.mark.parametrize("what", FALSIFIED)
def test_each_falsified_case_is_seen(what: str) -> None:
    expected, falsify = FALSIFIED[what]
    record, evidence, blows = good()
    falsify(record, evidence, blows)

    assert broken(record, evidence, blows) == expected


def test_what_was_seen_to_be_committed_and_is_gone_is_seen() -> None:
    record, evidence, blows = good()
    there = {(8, OTHER, "y")}

    case = Case(record, evidence, blows, committed=there)
    assert {one.name for one in check(case) if one.broken} == set()

    case = Case(record, evidence, blows, committed=there | {(99, OTHER, "z")})
    assert {one.name for one in check(case) if one.broken} == {"commits_are_kept"}


def test_every_property_is_broken_by_some_case() -> None:
    seen = set().union(*(names for names, _ in FALSIFIED.values()))

    handed = {"commits_are_kept", "handed_runs_are_begun_early_and_by_one"}  # cases of their own
    assert seen | handed == {rule.__name__ for rule in PROPERTIES}


def test_the_page_names_every_property() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "proving.md"
    named = re.findall(r"^\| `(\w+)` \|", page.read_text(encoding="utf-8"), re.MULTILINE)

    names = {rule.__name__ for rule in PROPERTIES} | {"processes_live", "nothing_unforeseen"}
    assert names <= set(named)


def test_a_fault_that_is_tried_again_began_with_its_first_try() -> None:
    record, evidence, _ = good()
    blow = Blow("worker_frozen", 1.0)
    blow.strike()
    first = blow.at
    until(lambda: time.time() > first, what="the clock")
    blow.strike()
    blow.heal()

    assert blow.at > first
    assert Case(record, evidence, [blow]).is_struck(first, first)
