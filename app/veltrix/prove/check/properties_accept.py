"""What was accepted: the ledger against what was sent and answered, the books against rows."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from veltrix.prove.check.evidence import Books, StoredEvent, StoredRun
from veltrix.prove.check.history import Case
from veltrix.prove.check.properties import Violations
from veltrix.prove.faults.deploy import OTHER_CODE
from veltrix.prove.load.expected import TURNING
from veltrix.prove.load.items import kind_of, workflows_of

ROUTED_S = 5.0  # after which a deploy decides, also one that goes back


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
        kind = kind_of(event.type)
        expected = sorted(workflows_of(kind))
        if kind == TURNING and not _is_subscribed(case, event):
            expected = []
        found = sorted(run.workflow for run in case.runs_of.get(event.event_id, ()))
        if expected != found or event.is_unrouted != (not expected):
            yield f"event {event.sender_id} started {found}, expected {expected}"


def nothing_dropped(case: Case) -> Violations:
    """Every malformed message is a row that someone can see."""
    for blow in case.blows:
        for number, digest in enumerate(blow.letters, 1):
            if case.evidence.letters[digest] == 0:
                yield f"malformed message {number} of {len(blow.letters)} is no row"


def books_balance(case: Case) -> Violations:
    """The counters agree with the rows: in all, and of each account in each minute."""
    evidence = case.evidence
    rows = _books_of(evidence.events, evidence.runs)
    yield from _differences("", evidence.books, rows)
    if not evidence.books_by_minute:
        return
    events: dict[tuple[int, int], list[StoredEvent]] = defaultdict(list)
    runs: dict[tuple[int, int], list[StoredRun]] = defaultdict(list)
    for event in evidence.events:
        events[event.account, event.minute].append(event)
    for run in evidence.runs:
        runs[run.account, run.minute].append(run)
    for place in sorted({*events, *runs, *evidence.books_by_minute}):
        found = _books_of(events[place], runs[place])
        counted = evidence.books_by_minute.get(place, Books())
        yield from _differences(f"account {place[0]}, minute {place[1]}: ", counted, found)


def _is_subscribed(case: Case, event: StoredEvent) -> bool:
    """The code that was deployed when it came starts something; what it did, where that is open.

    Within seconds of a deploy either is right: what is unrouted then may be started later.
    """
    later = [began for _, began, _ in case.releases if began > event.accepted_at]
    release, _, done = [one for one in case.releases if one[1] <= event.accepted_at][-1]
    until = min(later, default=float("inf"))
    if done + ROUTED_S <= event.accepted_at <= until - ROUTED_S:
        return release != OTHER_CODE
    return not event.is_unrouted


def _books_of(events: Sequence[StoredEvent], runs: Sequence[StoredRun]) -> Books:
    states = Counter(run.state for run in runs)
    unrouted = sum(event.is_unrouted for event in events)
    return Books(
        accepted=len(events),
        routed=len(events) - unrouted,
        unrouted=unrouted,
        started=len(runs),
        succeeded=states["succeeded"],
        failed=states["failed"],
        cancelled=states["cancelled"],
    )


def _differences(where: str, counted: Books, there: Books) -> Violations:
    for name, said, found in zip(Books._fields, counted, there, strict=True):
        if said != found:
            yield f"{where}{name}: the counters say {said:,}, there are {found:,}"
