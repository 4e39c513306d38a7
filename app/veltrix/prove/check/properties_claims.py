"""What a claim allows: steps begin under one, are counted, and stop when the run is over."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from veltrix.prove.check.evidence import Begin, Failed
from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import CLOCKS_S, Violations, expected, kind_of_run, writer_of
from veltrix.prove.check.properties_time import line_of, queued
from veltrix.prove.load.expected import CANCELLED_KINDS
from veltrix.prove.load.notes import NOWHERE
from veltrix.store.crashes import CRASHED

LATE_MAX = 4  # steps that a process begins before it finds out that its claim was taken from it
HANDED_LATE_S = 1.0  # a list is begun while it may be, and its last steps when it is their turn
LATE_S = 1.0  # after which a run that is over, or shall be, begins nothing more
SETTLED_S = 5.0  # after its limit, until a run is over
# Transactional steps of a list are one commit: when one spoils it, the others are run again.
AGAIN_MAX = 8


class Hold(NamedTuple):
    """A process had a run from its claim until it let go of it, or it was taken away."""

    pid: int
    since: float
    until: float
    is_taken: bool


def holds_of(case: Case, run_id: str) -> list[Hold]:
    """Every claim of a run, in order; the last may have no end."""
    found: list[Hold] = []
    pid, since = 0, 0.0
    for move in case.moves_of.get(run_id, ()):
        if move.what != "move":
            continue
        if pid:
            found.append(Hold(pid, since, move.at, writer_of(move) != pid))
            pid = 0
        if move.new_state == "running":
            pid, since = int(move.worker_id.rpartition("/")[2] or 0), move.at
    if pid:
        found.append(Hold(pid, since, float("inf"), is_taken=False))
    return found


def steps_begin_under_a_claim(case: Case) -> Violations:
    """Every step begins while its process has its run; and little after it was taken from it."""
    for run_id, begins in case.begins_of.items():
        holds = holds_of(case, run_id) if case.moves else []
        late: Counter[Hold] = Counter()
        for begin in begins:
            if begin.position == NOWHERE:
                yield f"a step of run {run_id} was begun outside of it"
            elif case.moves:
                hold = _hold_at(holds, begin)
                if _is_under_a_lost_claim(case, hold, begin):
                    continue
                if hold is None:
                    yield f"step {begin.position} of run {run_id} began without a claim"
                elif begin.at > hold.until + CLOCKS_S:
                    late[hold] += 1
                    if not hold.is_taken or late[hold] > LATE_MAX:
                        after = begin.at - hold.until
                        yield f"step {begin.position} of run {run_id} began {after:.2f} s too late"


def handed_runs_are_begun_early_and_by_one(case: Case) -> Violations:
    """A run that is handed over as claimed is begun in the first part of its hold, by one child."""
    for run_id, until in case.handed.items():
        since = case.accepted_at.get(run_id)
        begins = [one for one in case.begins_of.get(run_id, ()) if one.at <= until]
        if since is None or not begins:
            continue
        children = {one.pid for one in begins}
        if len(children) > 1:
            yield f"run {run_id} was handed over once, and begun by {len(children)} children"
        after_s = min(one.at for one in begins) - since
        if after_s > case.hold_s / 2 + HANDED_LATE_S * case.slack:
            yield f"run {run_id} was begun {after_s:.2f} s after it was handed over"


def _is_under_a_lost_claim(case: Case, hold: Hold | None, begin: Begin) -> bool:
    """Its claim may be gone with the server; what the process had before is another one."""
    is_outside = hold is None or begin.at > hold.until + CLOCKS_S
    return is_outside and case.is_forgotten(begin.at)


def _hold_at(holds: list[Hold], begin: Begin) -> Hold | None:
    """The last claim that this process had made by then."""
    own = [h for h in holds if h.pid == begin.pid and h.since <= begin.at + CLOCKS_S]
    return own[-1] if own else None


def attempts_are_counted(case: Case) -> Violations:
    """Every execution of a step that fails is an attempt, counted once, and kept; no other is.

    A worker child may end between the mark that it begins a step and the step's first line, so one
    attempt that ended with it, and no more of the same child, may have left no note.
    """
    if not case.moves:
        return
    kept: dict[str, dict[tuple[int, str, int], Failed]] = defaultdict(dict)
    for one in case.evidence.failed:
        if one.position:
            kept[one.run_id][one.generation, one.position, one.attempt] = one
    silent: set[str] = set()  # children that ended before the first line of a step
    for run_id, begins in case.begins_of.items():
        yield from _miscounted(case, run_id, begins, kept.get(run_id, {}), silent)


def _miscounted(
    case: Case,
    run_id: str,
    begins: list[Begin],
    kept: dict[tuple[int, str, int], Failed],
    silent: set[str],
) -> Violations:
    holds, run = holds_of(case, run_id), case.run.get(run_id)
    again_max = AGAIN_MAX if run is not None and expected(run).booked else 1
    begun: dict[tuple[int, str], set[int]] = defaultdict(set)
    in_a_hold: Counter[tuple[Hold | None, str, int]] = Counter()
    for begin in begins:
        if begin.position != NOWHERE:
            generation = case.generation_at(run_id, begin.at)
            begun[generation, begin.position].add(begin.attempt)
            hold = _hold_at(holds, begin)
            if _is_under_a_lost_claim(case, hold, begin):
                hold = None
            in_a_hold[hold, begin.position, begin.attempt] += 1
    let_go: Counter[tuple[str, int, int]] = Counter()  # begun in a claim that ended as it should
    for (hold, position, attempt), count in in_a_hold.items():
        if count > again_max:
            yield f"attempt {attempt} of step {position} of run {run_id} was begun {count} times"
        if hold is not None and not hold.is_taken:
            let_go[position, attempt, case.generation_at(run_id, hold.since)] += 1
    for (position, attempt, _), count in let_go.items():
        if count > 1:
            yield f"attempt {attempt} of step {position} of run {run_id} was one of {count} claims"
    for (generation, position), attempts in begun.items():
        for attempt in attempts - {max(attempts)}:
            if (generation, position, attempt) not in kept:
                yield f"attempt {attempt} of step {position} of run {run_id} failed unseen"
    for (generation, position, attempt), one in kept.items():
        noted = begun.get((generation, position), set())
        if noted and attempt not in noted:
            if one.type == CRASHED and one.worker_id not in silent:
                silent.add(one.worker_id)
                continue
            yield f"attempt {attempt} of step {position} of run {run_id} failed and never began"


def cancelled_runs_stop(case: Case) -> Violations:
    """A run that is told to end begins no more than the step it is at."""
    for run_id, told_at in case.cancelled.items():
        run = case.run.get(run_id)
        if run is None or kind_of_run(run) not in CANCELLED_KINDS:
            continue
        late = LATE_S * case.slack
        if case.is_struck(told_at - late, told_at + 2 * late):
            continue
        begun = [b for b in case.begins_of.get(run_id, ()) if b.at > told_at + late]
        if begun:
            yield f"run {run_id} of {run.workflow} began {len(begun)} steps after it was to end"
        elif run.settled_at is None or run.settled_at > told_at + late + SETTLED_S * case.slack:
            yield f"run {run_id} of {run.workflow} was told to end, and is {run.state} long after"


def limits_end_runs(case: Case) -> Violations:
    """A run past its limit is over: it begins nothing more, and its outcome says so.

    It may have to wait for that where many stand in line, as all that is due.
    """
    line = line_of(case)
    for run in case.evidence.runs:
        limit_s = expected(run).limit_s
        if limit_s is None:
            continue
        for generation, began in _first_claims(case, run.run_id):
            ends_at = began + limit_s
            late = LATE_S * case.slack
            begun = [
                begin
                for begin in case.begins_of.get(run.run_id, ())
                if begin.at > ends_at + late
                and case.generation_at(run.run_id, begin.at) == generation
            ]
            if begun:
                yield f"run {run.run_id} of {run.workflow} began {len(begun)} steps past its limit"
            waited = sum(
                until - max(since, ends_at)
                for since, until in queued(case, run.run_id)
                if until > ends_at  # behind others: it begins nothing there
            )
            over = ends_at + waited + SETTLED_S * case.slack
            settled = run.settled_at if generation == run.generation else ends_at
            is_late = settled is None or settled > max(over, line(ends_at) + SETTLED_S * case.slack)
            if is_late and not case.is_struck(began, over):
                yield f"run {run.run_id} of {run.workflow} is not over after {limit_s:g} s"


def _first_claims(case: Case, run_id: str) -> Iterator[tuple[int, float]]:
    """When each generation of a run was claimed for the first time."""
    seen: set[int] = set()
    for move in case.moves_of.get(run_id, ()):
        if move.new_state == "running" and move.generation not in seen:
            seen.add(move.generation)
            yield move.generation, move.at
