"""What became of runs: outcomes, replays, and who wrote them."""

from collections import Counter

from veltrix.domain.places import DEPLOY_POSITION
from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import REPLAY, SETTLED, Violations, expected, kind_of_run, wrote
from veltrix.prove.load.expected import BLAMED, TURNING


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
    for run_id, before in case.planned.items():
        found = case.run.get(run_id)
        if found is None or found.generation <= before or found.state not in SETTLED:
            yield f"run {run_id} was in a replay that started, and is {found}"
    for run_id, generation in case.replayed.items():
        found = case.run.get(run_id)
        if found is None or found.generation < generation or found.state not in SETTLED:
            yield f"run {run_id} was told generation {generation}, and is {found}"


def outcomes_as_expected(case: Case) -> Violations:
    """A run fails if it was told to, is cancelled only if somebody asked, and else succeeds."""
    for run in case.evidence.runs:
        if run.state in SETTLED:
            wanted = expected(run)
            if run.state == "cancelled" and run.run_id in case.cancelling:
                continue
            if wanted.has_key and run.key != case.sender_of.get(run.event_id):
                yield f"run {run.run_id} of {run.workflow} has the key {run.key!r}"
            is_reason = not wanted.reason or run.reason == wanted.reason
            if run.state != wanted.state or not is_reason:
                yield f"run {run.run_id} of {run.workflow} {run.state} {run.reason}".rstrip()


def no_zombie_writes(case: Case) -> Violations:
    """Outcomes and journal entries are written by the process that holds the run, and no other."""
    holders: dict[str, str] = {}
    before: dict[str, tuple[str, str]] = {}  # the holder until the last move, in which transaction
    for move in case.moves:
        id_, holder = move.run_id, holders.get(move.run_id, "")
        if move.what == "entry" and before.get(id_, ("", ""))[1] == move.xid:
            holder = before[id_][0]
            if holder == REPLAY:  # what the replay keeps of the generation before
                continue
        is_outcome = move.old_state in ("running", *SETTLED) and move.new_state != "queued"
        if (move.what == "entry" or is_outcome) and not wrote(move, holder):
            what = "an entry" if move.what == "entry" else f"{move.new_state}"
            yield f"{move.application} wrote {what} of run {id_}, held by {holder!r}"
        if move.what == "move":
            is_replay = move.old_state in SETTLED and move.new_state == "queued"
            before[id_] = REPLAY if is_replay else holder, move.xid
            holders[id_] = move.worker_id if move.new_state == "running" else ""


def healthy_runs_are_not_blamed(case: Case) -> Violations:
    """No healthy run is called poison, or unstorable, or not to fit its journal or its code.

    The latter not even for a while, but where other code was deployed.
    """
    for failed in case.evidence.failed:
        run = case.run.get(failed.run_id)
        if failed.position == DEPLOY_POSITION and run and kind_of_run(run) != TURNING:
            yield f"run {run.run_id} of {run.workflow} waited for other code: {failed.type}"
    for run in case.evidence.runs:
        if run.reason in BLAMED and run.reason != expected(run).reason:
            yield f"run {run.run_id} of {run.workflow} {run.state} with the reason {run.reason}"


def edits_make_runs(case: Case) -> Violations:
    """Every edit made the run that was told, which came to its outcome; what it is of stays."""
    made = case.evidence.edited
    for run_id, origin in case.edited.items():
        if made.get(run_id, ("", ""))[0] != origin:
            yield f"an edit of run {origin} was to make run {run_id}, and did not"
    for run_id, (origin, state) in made.items():
        if state != "failed":  # as all edited runs of prove fail whatever their payload is
            yield f"run {run_id}, an edit of {origin}, is {state or 'not there'}"
        if origin not in case.run:
            yield f"run {run_id} is an edit of {origin}, which is not there"


def failures_are_in_their_groups(case: Case) -> Violations:
    """Groups count every failed run and every unrouted event, and what was archived stays so."""
    runs, events = case.evidence.runs, case.evidence.events
    for run_id in case.archived:
        run = case.run.get(run_id)
        if run is None or not (run.is_archived or run_id in case.replaying):
            yield f"run {run_id} was archived, and is {run}"
    if not case.evidence.groups:
        return
    failed = [run for run in runs if run.state == "failed"]
    archived = sum(run.is_archived for run in failed)
    edited = sum(state == "failed" for _, state in case.evidence.edited.values())
    there = {"failed runs": len(failed) - archived + edited, "archived runs": archived}
    there["unrouted events"] = sum(event.is_unrouted for event in events)
    counted = {"failed runs": 0, "archived runs": 0}
    for kind in ("run", "poison"):
        count, away = case.evidence.groups.get(kind, (0, 0))
        counted["failed runs"] += count
        counted["archived runs"] += away
    counted["unrouted events"] = case.evidence.groups.get("unrouted", (0, 0))[0]
    for name, count in counted.items():
        if count != there[name]:
            yield f"groups count {count:,} {name}, there are {there[name]:,}"
