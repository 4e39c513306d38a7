"""What took too long, at the wrong time, or did not last: clocks, commits, waiting and recovery."""

import math
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable

from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import SETTLED, Violations, wrote

TIMES_S = 10.0  # an api whose clock is further from the database's accepts nothing
IDLE_S = 3.0
_MOST = 2 / 3  # of the bound: children take other things in between
_SHARE = 1 / 3  # of the time that a run waited
_LINE = 20  # fewer are what relays and children have in hand anyway
_GAP_S = 0.25  # less is what a list takes to come


def times_are_the_databases(case: Case) -> Violations:
    """An event is accepted at the time of the database, whatever the api's clock says."""
    for event in case.evidence.events:
        asked = case.asked_at.get((event.sender_id, event.digest))
        if asked is None:
            continue
        first, last = asked
        if not first - TIMES_S <= event.accepted_at <= last + TIMES_S:
            off = event.accepted_at - first
            yield f"event {event.sender_id} was accepted {off:+.1f} s from when it was sent"


def commits_are_waited_for(case: Case) -> Violations:
    """Every outcome and every entry is committed by a transaction that waits for the disk."""
    for move in case.moves:
        if is_lasting(move.what, move.new_state) and move.synchronous != "on":
            yield f"{move.application} wrote with synchronous_commit={move.synchronous}"


def is_lasting(what: str, new_state: str) -> bool:
    """A line of the witness whose commit waits; claims may be lost, and come again."""
    return what == "entry" or new_state in SETTLED


def commits_are_kept(case: Case) -> Violations:
    """An outcome or entry that was once seen to be committed is there at the end."""
    there = {(move.seq, move.run_id, move.xid) for move in case.evidence.moves}
    for seen in case.committed - there:
        yield f"line {seen[0]} of the witness, of run {seen[1]}, was committed and is gone"


def idle_hands_get_the_work(case: Case) -> Violations:
    """No run is queued for long while a child that serves it has nothing to do, faults aside."""
    idle = _idle(case)
    begins = [since for since, _, _ in idle]
    longest = max((until - since for since, until, _ in idle), default=0.0)
    bound = IDLE_S * case.slack
    for run in case.evidence.runs:
        for since, until in queued(case, run.run_id):
            if until - since < bound or case.is_struck(since, until):
                continue
            free: dict[str, float] = defaultdict(float)
            near = slice(bisect(begins, since - longest), bisect(begins, until))
            for first, last, child in idle[near]:
                free[child] += max(0.0, min(until, last) - max(since, first))
            child = max(free, key=lambda one: free[one], default="")
            # In a flood of minutes every child has moments with nothing: they are no idleness.
            if child and free[child] >= max(_MOST * bound, _SHARE * (until - since)):
                waited = f"waited {until - since:.1f} s"
                yield f"run {run.run_id} of {run.workflow} {waited} while {child} was idle"


def queued(case: Case, run_id: str) -> list[tuple[float, float]]:
    """From when until when a run was queued, each time, as the witness saw it.

    Who takes its token away from a queued run, at the end of its hold or to hand it back, ends no
    waiting: nobody had begun it.
    """
    found: list[tuple[float, float]] = []
    since = case.accepted_at.get(run_id)
    for move in case.moves_of.get(run_id, ()):
        if move.what != "move":
            continue
        if move.new_state == "queued":
            since = move.at if since is None or move.old_state != "queued" else since
        else:
            if since is not None:
                found.append((since, move.at))
            since = None
    return found


def line_of(case: Case) -> Callable[[float], float]:
    """Of a moment: until when more than a few runs stood in line; itself, if they did not."""
    changes = [(at, True, run_id) for run_id, at in case.accepted_at.items()]
    changes += [
        (move.at, move.new_state == "queued", move.run_id)
        for move in case.moves
        if move.what == "move"
    ]
    line: set[str] = set()
    turns = [0.0]  # when a line began, when it was gone, and so on
    for at, is_in_line, run_id in sorted(changes):
        (line.add if is_in_line else line.discard)(run_id)
        is_long = len(line) >= _LINE
        if is_long != (len(turns) % 2 == 0):
            turns.append(at)

    def until(at: float) -> float:
        number = bisect(turns, at)
        if number % 2:
            return at
        return turns[number] if number < len(turns) else math.inf

    return until


def _idle(case: Case) -> list[tuple[float, float, str]]:
    """When which child held nothing for a while, between two times at which it took something."""
    held: dict[str, set[str]] = {}
    free: dict[str, float] = {}
    holder: dict[str, str] = {}
    found: list[tuple[float, float, str]] = []
    for move in case.moves:
        if move.what != "move":
            continue
        before = holder.pop(move.run_id, "")
        if before:
            held[before].discard(move.run_id)
            if not held[before]:
                free[before] = move.at
        if move.new_state == "running":
            child = move.worker_id
            since = free.pop(child, None)
            if since is not None and move.at - since >= _GAP_S and wrote(move, child):
                found.append((since, move.at, child))
            held.setdefault(child, set()).add(move.run_id)
            holder[move.run_id] = child
    return sorted(found)


def faults_are_recovered_from(case: Case) -> Violations:
    """After each fault, what was open in it is taken up again in time."""
    for blow in case.blows:
        if blow.error:
            yield f"{blow.name}: {blow.error}"
        elif blow.is_tried and not blow.is_recovered:
            took = "it was not" if blow.recovery_s is None else f"after {blow.recovery_s:.2f} s"
            yield f"{blow.name}: {took}; {blow.target_s:g} s at most"
