"""The checker: what was promised, held against what was sent, answered and found.

Pure: it reads nothing and asks nobody. Each property names what breaks it, with samples.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from app.prove.case import Case
from app.prove.evidence import Books, StoredRun
from app.prove.items import FAILED_KINDS, kind_of, workflows_of
from app.prove.witness import Move

SAMPLES_MAX = 5
SETTLED = frozenset({"succeeded", "failed", "cancelled"})
# Two clocks of one machine: the database's and the monotonic one (see `evidence.Clock`).
_CLOCKS_S = 0.005
_REPLAY = "replay"
_WORKER = re.compile(r"veltrix worker (\d+)\b")
# By workflow: steps with a note, and keys with a transactional effect, of a run that succeeded.
_NOTED = {"slow": 3, "blocking": 2, "flaky": 2, "killing": 3, "sleeping": 2, "parallel": 4}
_NOTED |= {"booking": 2}
_BOOKED = {"booking": 2}
# Entries that did not end in an error: the steps, the end of a sleep, the count of a booking.
_JOURNALLED = _NOTED | {"sleeping": 3, "booking": 5}
Violations = Iterator[str]
Check = Callable[[Case], Violations]


class Property(msgspec.Struct):
    """A promise and what was found against it."""

    name: str
    promise: str
    broken: int = 0
    samples: list[str] = []
    not_checked: str = ""  # why; "": it was checked

    @property
    def is_held(self) -> bool:
        """Checked, and nothing speaks against it."""
        return not self.not_checked and self.broken == 0


def check(case: Case) -> list[Property]:
    """Every property, held or broken."""
    return [_look(rule, case) for rule in PROPERTIES]


def _look(rule: Check, case: Case) -> Property:
    found = Property(rule.__name__, (rule.__doc__ or "").strip().replace("\n    ", " "))
    for violation in rule(case):
        found.broken += 1
        if len(found.samples) < SAMPLES_MAX:
            found.samples = [*found.samples, violation]
    return found


# What was accepted


def accepted_is_stored(case: Case) -> Violations:
    """Every 202 is in the ledger, once, with the content that was sent and the id that was told."""
    if not case.accepted:
        yield "nothing was accepted"
    for id_, count in case.firsts.items():
        if count > 1:
            yield f"event {id_} was told to be new {count} times"
    for (id_, digest), event_ids in case.accepted.items():
        rows = case.by_sender.get(id_, [])
        if not any(row.digest == digest for row in rows):
            yield f"event {id_} was accepted and its content is not in the ledger"
        elif event_ids != {row.event_id for row in rows}:
            yield f"event {id_} was told {sorted(event_ids)}, the ledger has {len(rows)} rows"


def nothing_invented(case: Case) -> Violations:
    """Nothing is in the ledger that was not sent, nothing twice, and no run without an event."""
    known = {event.event_id for event in case.evidence.events}
    if case.evidence.strangers:
        yield f"{case.evidence.strangers} events have another source than any that was sent"
    for id_, rows in case.by_sender.items():
        if len(rows) > 1:
            yield f"event {id_} is in the ledger {len(rows)} times"
        for row in rows:
            if row.digest not in case.sent.get(id_, ()):
                yield f"the ledger has event {id_} with a content that was not sent"
    for run in case.evidence.runs:
        if run.event_id not in known:
            yield f"run {run.run_id} has no event"


def refused_is_not_stored(case: Case) -> Violations:
    """What was refused is not in the ledger."""
    for id_ in case.flawed:
        if id_ in case.by_sender and id_ not in case.sent:
            yield f"event {id_} was to be refused and is in the ledger"
    for id_, digest in case.refused:
        may_be_there = (id_, digest) in case.accepted or (id_, digest) in case.doubtful
        if not may_be_there and any(row.digest == digest for row in case.by_sender.get(id_, ())):
            yield f"event {id_} was refused and its content is in the ledger"


def only_faulty_is_refused(case: Case) -> Violations:
    """Only what is no CloudEvent is refused, and what is known with other content."""
    for id_, digest in case.refused:
        is_conflict = any(row.digest != digest for row in case.by_sender.get(id_, ()))
        if id_ not in case.flawed and not is_conflict:
            yield f"event {id_} was refused, or its answer did not fit, without a reason"


def events_start_their_runs(case: Case) -> Violations:
    """Every event started one run of each workflow that subscribes to it, and no other."""
    for event in case.evidence.events:
        expected = sorted(workflows_of(kind_of(event.type)))
        found = sorted(run.workflow for run in case.runs_of.get(event.event_id, ()))
        if expected != found or event.is_unrouted != (not expected):
            yield f"event {event.sender_id} started {found}, expected {expected}"


# What became of runs


def nothing_left_open(case: Case) -> Violations:
    """When workload and faults are over, every run comes to an outcome."""
    for run in case.evidence.runs:
        if run.is_open:
            yield f"run {run.run_id} of {run.workflow} is {run.state}"


def settled_once(case: Case) -> Violations:
    """Every run has one outcome per generation, and does not move after it."""
    for run in case.evidence.runs:
        outcomes: Counter[int] = Counter()
        for move in case.moves_of.get(run.run_id, ()):
            if move.what != "move":
                continue
            if outcomes[move.generation]:
                yield f"run {run.run_id} went from {move.old_state} to {move.new_state} after that"
            outcomes[move.generation] += move.new_state in SETTLED
        if run.state in SETTLED and outcomes[run.generation] != 1:
            yield f"run {run.run_id} is {run.state} and has {outcomes[run.generation]} outcomes"


def replays_have_their_outcome(case: Case) -> Violations:
    """Every replay opened the generation that was told, which is settled; no run replays itself."""
    if case.replaying and not case.replayed:
        yield f"{len(case.replaying)} replays were asked for, and none was answered"
    for run in case.evidence.runs:
        if run.generation and run.run_id not in case.replaying:
            yield f"run {run.run_id} is in generation {run.generation}, and nobody replayed it"
    for run_id, generation in case.replayed.items():
        found = case.run.get(run_id)
        if found is None or found.generation != generation or found.state not in SETTLED:
            yield f"run {run_id} was told generation {generation}, and is {found}"


def outcomes_as_expected(case: Case) -> Violations:
    """A run fails if its steps were told to fail, and succeeds if not."""
    for run in case.evidence.runs:
        if run.state in SETTLED:
            is_failure = _kind(run) in FAILED_KINDS
            if run.state != ("failed" if is_failure else "succeeded"):
                yield f"run {run.run_id} of {run.workflow} {run.state} {run.reason}".rstrip()


def no_zombie_writes(case: Case) -> Violations:
    """Outcomes and journal entries are written by the process that holds the run, and no other."""
    holders: dict[str, str] = {}
    before: dict[str, tuple[str, str]] = {}  # the holder until the last move, in which transaction
    for move in case.evidence.moves:
        id_, holder = move.run_id, holders.get(move.run_id, "")
        if move.what == "entry" and before.get(id_, ("", ""))[1] == move.xid:
            holder = before[id_][0]
            if holder == _REPLAY:  # what the replay keeps of the generation before
                continue
        is_outcome = move.old_state in ("running", *SETTLED) and move.new_state != "queued"
        if move.what == "entry" or is_outcome:
            writer = _WORKER.search(move.application)
            if writer is None or not holder.endswith(f"/{writer[1]}"):
                what = "an entry" if move.what == "entry" else f"{move.new_state}"
                yield f"{move.application} wrote {what} of run {id_}, held by {holder!r}"
        if move.what == "move":
            is_replay = move.old_state in SETTLED and move.new_state == "queued"
            before[id_] = _REPLAY if is_replay else holder, move.xid
            holders[id_] = move.worker_id if move.new_state == "running" else ""


# What steps did


def finished_steps_stay_finished(case: Case) -> Violations:
    """No step runs again after it was journalled: not for who wrote it, nor for who came later."""
    for run_id, begins in case.begins_of.items():
        entries = _entries_at(case.moves_of.get(run_id, ()))
        for begin in begins:
            generation = case.generation_at(run_id, begin.at)
            entry = entries.get((generation, begin.position))
            if entry is None or begin.at <= entry[1] + _CLOCKS_S:
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
            if not times or max(times) > begin.at + _CLOCKS_S:
                yield f"step {begin.position} of run {run_id} began before {before} was journalled"


def journal_is_whole(case: Case) -> Violations:
    """The journal has what was written into it, and of a run that succeeded every step."""
    written = {
        (move.run_id, move.generation, move.old_state)
        for move in case.evidence.moves
        if move.what == "entry"
    }
    there = {(e.run_id, e.generation, e.position) for e in case.evidence.entries}
    for run_id, generation, position in (written ^ there) if case.evidence.moves else ():
        what = "is gone" if (run_id, generation, position) in written else "was not written"
        yield f"entry {position} of run {run_id}, generation {generation}, {what}"
    for run in case.evidence.runs:
        if run.state == "succeeded":
            wanted = _JOURNALLED.get(_kind(run), 1)
            entries = case.entries_of.get(run.run_id, ())
            found = sum(e.is_ok and e.generation == run.generation for e in entries)
            if found != wanted:
                yield f"run {run.run_id} of {run.workflow} has {found} entries of {wanted}"


def effects_at_least_once(case: Case) -> Violations:
    """Every finished step took effect at least once, always with the same idempotency key."""
    for run_id, begins in case.begins_of.items():
        for begin in begins:
            if begin.key != f"{run_id}:{begin.position}":
                yield f"step {begin.position} of run {run_id} had the key {begin.key}"
    for run in case.evidence.runs:
        if run.state == "succeeded":
            wanted = _NOTED.get(_kind(run), 1)
            found = len({begin.position for begin in case.begins_of.get(run.run_id, ())})
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
        wanted = _BOOKED.get(_kind(run), 0)
        found = keys.pop(run.run_id, 0)
        if found > wanted or (run.state == "succeeded" and found != wanted):
            yield f"run {run.run_id} of {run.workflow} has {found} effects of {wanted}"
    for run_id in keys:
        yield f"run {run_id} is not there, and an effect of it is"


# What nobody may lose sight of


def nothing_dropped(case: Case) -> Violations:
    """Every malformed message is a row that someone can see."""
    for blow in case.blows:
        for number, digest in enumerate(blow.letters, 1):
            if case.evidence.letters[digest] == 0:
                yield f"malformed message {number} of {len(blow.letters)} is no row"


def books_balance(case: Case) -> Violations:
    """The counters agree with the rows, and with themselves."""
    events, runs = case.evidence.events, case.evidence.runs
    states = Counter(run.state for run in runs)
    unrouted = sum(event.is_unrouted for event in events)
    rows = Books(
        accepted=len(events),
        routed=len(events) - unrouted,
        unrouted=unrouted,
        started=len(runs),
        succeeded=states["succeeded"],
        failed=states["failed"],
        cancelled=states["cancelled"],
    )
    for name, counted, found in zip(Books._fields, case.evidence.books, rows, strict=True):
        if counted != found:
            yield f"{name}: the counters say {counted:,}, there are {found:,}"


def faults_are_recovered_from(case: Case) -> Violations:
    """After each fault, what was open in it is taken up again in time."""
    for blow in case.blows:
        if blow.error:
            yield f"{blow.name}: {blow.error}"
        elif blow.is_tried and not blow.is_recovered:
            took = "it was not" if blow.recovery_s is None else f"after {blow.recovery_s:.2f} s"
            yield f"{blow.name}: {took}; {blow.target_s:g} s at most"


PROPERTIES: tuple[Check, ...] = (
    accepted_is_stored,
    nothing_invented,
    refused_is_not_stored,
    only_faulty_is_refused,
    events_start_their_runs,
    nothing_left_open,
    settled_once,
    replays_have_their_outcome,
    outcomes_as_expected,
    no_zombie_writes,
    finished_steps_stay_finished,
    steps_wait_for_the_journal,
    journal_is_whole,
    effects_at_least_once,
    transactional_effects_once,
    nothing_dropped,
    books_balance,
    faults_are_recovered_from,
)


def _kind(run: StoredRun) -> str:
    return run.workflow.removeprefix("prove_")


def _entries_at(moves: "list[Move] | tuple[()]") -> dict[tuple[int, str], tuple[int, float]]:
    """By generation and position: which process journalled it, and when."""
    found: dict[tuple[int, str], tuple[int, float]] = {}
    for move in moves:
        if move.what == "entry":
            writer = _WORKER.search(move.application)
            found[move.generation, move.old_state] = (int(writer[1]) if writer else 0), move.at
    return found


def _claims(case: Case, run_id: str, pid: int) -> Iterator[float]:
    """When this process took this run."""
    for move in case.moves_of.get(run_id, ()):
        if move.new_state == "running" and move.worker_id.endswith(f"/{pid}"):
            yield move.at
