"""What steps did: their effects, against the journal and the order of things."""

from collections import Counter
from collections.abc import Iterator

from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import CLOCKS_S, Violations, expected, writer_of
from veltrix.prove.deployment.witness import Move
from veltrix.prove.load.notes import NOWHERE


def finished_steps_stay_finished(case: Case) -> Violations:
    """No step runs again after it was journalled: not for who wrote it, nor for who came later."""
    for run_id, begins in case.begins_of.items():
        entries = _entries_at(case.moves_of.get(run_id, ()))
        for begin in begins:
            generation = case.generation_at(run_id, begin.at)
            entry = entries.get((generation, begin.position))
            if entry is None or begin.at <= entry[1] + CLOCKS_S:
                continue
            writer, written = entry
            is_later = any(written < at <= begin.at for at in _claims(case, run_id, begin.pid))
            if is_later or writer == begin.pid:
                yield f"step {begin.position} of run {run_id} ran again"


def steps_wait_for_the_journal(case: Case) -> Violations:
    """A step begins after everything before it in its run was journalled."""
    for run_id, begins in case.begins_of.items():
        entries = _entries_at(case.moves_of.get(run_id, ()))
        for begin in begins:
            if not begin.position.isdigit() or begin.position == "1":
                continue
            before = str(int(begin.position) - 1)
            generation = case.generation_at(run_id, begin.at)
            times = [
                at
                for (g, position), (_, at) in entries.items()
                if g == generation and (position == before or position.startswith(f"{before}."))
            ]
            if not times or max(times) > begin.at + CLOCKS_S:
                yield f"step {begin.position} of run {run_id} began before {before} was journalled"


def journal_is_whole(case: Case) -> Violations:
    """The journal has what was written into it, and of a run that succeeded every step."""
    written = {
        (move.run_id, move.generation, move.old_state)
        for move in case.moves
        if move.what == "entry"
    }
    there = {(e.run_id, e.generation, e.position) for e in case.evidence.entries}
    for run_id, generation, position in (written ^ there) if case.moves else ():
        what = "is gone" if (run_id, generation, position) in written else "was not written"
        yield f"entry {position} of run {run_id}, generation {generation}, {what}"
    for run in case.evidence.runs:
        if run.state == "succeeded":
            wanted = expected(run).entries
            entries = case.entries_of.get(run.run_id, ())
            found = sum(e.is_ok and e.generation == run.generation for e in entries)
            if wanted is not None and found != wanted:
                yield f"run {run.run_id} of {run.workflow} has {found} entries of {wanted}"


def effects_at_least_once(case: Case) -> Violations:
    """Every finished step took effect at least once, always with the same idempotency key."""
    for run_id, begins in case.begins_of.items():
        for begin in begins:
            if begin.position != NOWHERE and begin.key != f"{run_id}:{begin.position}":
                yield f"step {begin.position} of run {run_id} had the key {begin.key}"
    for run in case.evidence.runs:
        wanted = expected(run).noted
        if wanted is not None and run.state == expected(run).state and run.reason != "poison":
            noted = {begin.position for begin in case.begins_of.get(run.run_id, ())}
            found = len(noted - {NOWHERE})
            if found != wanted:
                yield f"run {run.run_id} of {run.workflow} had {found} effects of {wanted}"


def transactional_effects_once(case: Case) -> Violations:
    """Every transactional effect of a run that succeeded is there, and none is there twice."""
    keys: Counter[str] = Counter()
    for key, count in case.evidence.booked.items():
        keys[key.partition(":")[0]] += 1
        if count > 1:
            yield f"the effect {key} is there {count} times"
    for run in case.evidence.runs:
        wanted = expected(run).booked
        found = keys.pop(run.run_id, 0)
        if found > wanted or (run.state == "succeeded" and found != wanted):
            yield f"run {run.run_id} of {run.workflow} has {found} effects of {wanted}"
    for run_id in keys:
        yield f"run {run_id} is not there, and an effect of it is"


def _entries_at(moves: "list[Move] | tuple[()]") -> dict[tuple[int, str], tuple[int, float]]:
    """By generation and position: which process journalled it, and when."""
    found: dict[tuple[int, str], tuple[int, float]] = {}
    for move in moves:
        if move.what == "entry":
            found[move.generation, move.old_state] = writer_of(move), move.at
    return found


def _claims(case: Case, run_id: str, pid: int) -> Iterator[float]:
    """When this process took this run."""
    for move in case.moves_of.get(run_id, ()):
        if move.new_state == "running" and move.worker_id.endswith(f"/{pid}"):
            yield move.at
