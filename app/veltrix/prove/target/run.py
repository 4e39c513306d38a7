"""A proof on a deployment that is not ours: everything through its HTTP API, and no faults.

What an API cannot tell is not checked, and the report says so for each property: the verdict is
then `inconclusive` at best. A note tells a target on which all held that could be seen from one in
doubt.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import msgspec

from veltrix.dev.children import CannotStart
from veltrix.domain.states import Reason
from veltrix.prove.check import logs
from veltrix.prove.check.checker import PROPERTIES, SAMPLES_MAX, Property, check
from veltrix.prove.check.evidence import Books
from veltrix.prove.check.history import Case
from veltrix.prove.load.items import kind_of, kinds, workflows_of
from veltrix.prove.load.pace import SendPace
from veltrix.prove.load.record import Asked, Record, read_record
from veltrix.prove.load.workload import Workload
from veltrix.prove.report.report import Proof
from veltrix.prove.report.samples import Look, ProofSample, Watch
from veltrix.prove.report.summary import summarise
from veltrix.prove.scenario import RECORD_FILE, Plan
from veltrix.prove.target.first_event import check_is_served
from veltrix.prove.target.http_api import Api, TargetBalance
from veltrix.prove.target.reads import ReadFailed, Reading
from veltrix.prove.target.starts import Starts

_LOOK_S = 0.25
_OPEN_READ_MAX = 500
_DATABASE = "needs the database of the target: every move of every run"
_NOTES = "needs the notes that steps leave on the machines of the workers"
_HOST = "needs the host of the target: no fault was tried"
_SHARED = "needs a source of its own, and starts by name share theirs with others"
_THEIRS = "is known only of the workflows of prove, which this target does not serve"
_MANY = "needs books with fewer sources and types: GET /v1/balance lists 1,000, without an overflow"
# Why a property cannot be checked from outside.
UNSEEN = {
    "settled_once": _DATABASE,
    "replays_have_their_outcome": "no run was replayed: they are the target's operators' to replay",
    "edits_make_runs": "no run was edited: they are the target's operators' to edit",
    "failures_are_in_their_groups": _DATABASE,
    "no_zombie_writes": _DATABASE,
    "steps_begin_under_a_claim": _DATABASE,
    "handed_runs_are_begun_early_and_by_one": _DATABASE,
    "attempts_are_counted": _NOTES,
    "cancelled_runs_stop": "no run was cancelled: they are the target's operators' to cancel",
    "limits_end_runs": _DATABASE,
    "values_are_seen_again": _NOTES,
    "tenants_are_apart": _NOTES,
    "times_are_the_databases": "needs a clock that agrees with the target's database",
    "commits_are_waited_for": _DATABASE,
    "commits_are_kept": _DATABASE,
    "idle_hands_get_the_work": _DATABASE,
    "finished_steps_stay_finished": _NOTES,
    "steps_wait_for_the_journal": _NOTES,
    "nothing_dropped": "needs the broker of the target: no malformed message was sent",
    "faults_are_recovered_from": _HOST,
    "processes_live": _HOST,
    logs.NAME: "needs the logs of the target's processes",
}
# And where somebody's own workflows are started instead.
UNSEEN_OF_STARTS = {
    "nothing_invented": _SHARED,
    "books_balance": _SHARED,
    "outcomes_as_expected": _THEIRS,
    "journal_is_whole": _THEIRS,
    "effects_at_least_once": _THEIRS,
    "transactional_effects_once": _THEIRS,
}
# What is promised of the rest where the evidence is another than at home.
_PROMISES = {
    "journal_is_whole": "The journal of a run that succeeded has every step of it.",
    "effects_at_least_once": "Every finished step is journalled with the idempotency key of its run"
    " and position, and a run that succeeded has all of them.",
    "transactional_effects_once": "Every transactional effect of a run that succeeded is there, and"
    " none is there twice, as each run counted them at its end.",
}


def prove_target(
    plan: Plan,
    url: str,
    *,
    key: str | None,
    workflows: Sequence[str] | None,
    folder: Path,
    show: Callable[[ProofSample], None] = lambda _sample: None,
    say: Callable[[str], None] = lambda _line: None,
) -> Proof:
    """Drive the plan's workload through the api at `url`; `folder` keeps the record.

    Without VELTRIX_PROVE on the target's workers it starts the named `workflows` instead. Raises
    CannotStart, with a sentence and before anything is driven, when neither can be done.
    """
    path = folder / RECORD_FILE
    if path.exists():
        raise CannotStart(f"{str(path)!r} is the record of another proof; choose another folder")
    with Api(url, key) as api:
        known = api.workflows()
        api.check_may_write()
        api.balance()
        visit = Visit(plan, api, show, say)
        if {name for kind in kinds() for name in workflows_of(kind)} <= known.keys():
            if workflows:
                visit.note("the target serves the workflows of prove: --workflow is not needed")
            check_is_served(api, plan.source, plan.stall_s, say)
        elif workflows:
            visit.note(
                "the target's workers do not serve the workflows of prove (VELTRIX_PROVE is not"
                f" set): driving {', '.join(workflows)}"
            )
            name = plan.source.rstrip("/").rpartition("/")[2]
            visit.start_by_name(Starts(workflows, known, name))
        else:
            raise CannotStart(
                "the target's workers do not serve the workflows of prove: start them with"
                " VELTRIX_PROVE=1, or name workflows to start with --workflow"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return visit.run(path)


class Visit:
    """Runs a plan against a target."""

    def __init__(
        self, plan: Plan, api: Api, show: Callable[[ProofSample], None], say: Callable[[str], None]
    ) -> None:
        self._plan, self._api, self._show, self._say = plan, api, show, say
        self.starts: Starts | None = None
        self._pause = Event()
        self._notes: list[str] = []
        self._unseen = dict(UNSEEN)

    def start_by_name(self, starts: Starts) -> None:
        """Instead of events, which start nothing here."""
        self.starts = starts
        self._unseen |= UNSEEN_OF_STARTS

    def note(self, line: str) -> None:
        """For the report, and for who is watching."""
        self._notes.append(line)
        self._say(line)

    def run(self, path: Path) -> Proof:
        """From the first event to the verdict."""
        plan = self._plan
        pace = SendPace(plan.events, plan.rate)
        if plan.seconds is not None:
            pace.must_last(plan.seconds)
        started_at = time.time()
        with ExitStack() as stack:
            workload = Workload(
                [self._api.url],
                stack.enter_context(Record(path)),
                seed=plan.seed,
                source=plan.source,
                events=plan.events,
                pace=pace,
                headers=self._api.headers,
                traffic=self.starts,
            )
            watch = Watch(lambda: self._look(workload), self._show)
            stack.enter_context(watch)
            stack.enter_context(workload)
            while not workload.is_done:
                self._pause.wait(_LOOK_S)
            if self.starts is None:
                self._drain()
        seconds = time.time() - started_at
        case, unaccounted = self._read(path)
        return summarise(
            plan,
            case,
            self._properties(case),
            acknowledged=workload.acknowledged,
            samples=watch.samples,
            unaccounted=unaccounted,
            notes=self._notes,
            started_at=started_at,
            seconds=seconds,
        )

    # Looking

    def _look(self, workload: Workload) -> Look:
        """What is settled and open of a source of our own; not told of starts, which share it."""
        books = None if self.starts else self._balance()
        if books is None:
            return Look(workload.sent, workload.accepted, None, None)
        settled, open_ = _progress(books, self._plan.source)
        return Look(workload.sent, workload.accepted, settled, open_)

    def _balance(self) -> TargetBalance | None:
        try:
            return self._api.balance()
        except CannotStart:  # it is away now: what it does not tell is not shown
            return None

    def _drain(self) -> None:
        """Until nothing of ours is open and nothing is still coming in, or it has stood too long.

        Quiet is seen twice: a request that was not answered may be under way in the target.
        """
        last, since = (-1, -1), time.monotonic()
        while time.monotonic() - since <= self._plan.stall_s:
            books = self._balance()
            if books is not None:
                settled, open_ = _progress(books, self._plan.source)
                if open_ == 0 and last == (settled, 0):
                    return
                if (settled, open_) != last:
                    last, since = (settled, open_), time.monotonic()
            self._pause.wait(_LOOK_S)

    # Concluding

    def _read(self, path: Path) -> tuple[Case, int | None]:
        """The case, and what is unaccounted for. What could not be read is unseen: None."""
        asked = (line for line in read_record(path) if isinstance(line, Asked))
        ids = dict.fromkeys(id_ for line in asked for id_ in line.ids)
        self._say(f"reading what the target has of {len(ids):,} events")
        reading = Reading(self._api, self._source_of, self._say)
        names = () if self.starts else {name for kind in kinds() for name in workflows_of(kind)}
        try:
            reading.read(ids, names)
            self._await_open(reading)
            balance = self._api.balance()
        except (ReadFailed, CannotStart) as error:
            self.note(f"the target could not be read, so nothing is known of it: {error}")
            self._unseen = dict.fromkeys(_names(), "needs a target that answers")
            reading = Reading(self._api, self._source_of, self._say)
            return Case(read_record(path), reading.evidence(Books()), []), None
        if not balance.is_whole:
            self._unseen.setdefault("books_balance", _MANY)
        ours = set(map(self._source_of, ids))
        unaccounted = sum(one.unaccounted for source in ours for one in balance.of(source))
        if others := balance.unaccounted - unaccounted:
            self.note(f"of other sources {others:,} events or runs are unaccounted for")
        books = _books(balance, self._plan.source)
        return Case(read_record(path), reading.evidence(books), []), unaccounted

    def _source_of(self, id_: str) -> str:
        return self._plan.source if self.starts is None else self.starts.source_of(id_)

    def _await_open(self, reading: Reading) -> None:
        """Until no run that was read is open, or none comes to an end for too long.

        Nor yet to begin: of an event whose api did not know a new subscription yet.
        """
        fewest, since = sys.maxsize, time.monotonic()
        while True:
            unrouted = reading.read_unrouted(self._is_late, _OPEN_READ_MAX)
            open_ = reading.read_open(_OPEN_READ_MAX)
            left = unrouted + open_
            if left == 0:
                return
            if left < fewest:
                fewest, since = left, time.monotonic()
            elif time.monotonic() - since > self._plan.stall_s:
                late = f"{unrouted:,} events have no run and " if unrouted else ""
                stood = f"for {self._plan.stall_s:g} s none ended"
                self.note(f"{late}{open_:,} runs are open, and {stood}")
                return
            self._pause.wait(_LOOK_S)

    def _is_late(self, type_: str) -> bool:
        """An event of this type starts runs, sooner or later."""
        return self.starts is not None or bool(workflows_of(kind_of(type_)))

    def _properties(self, case: Case) -> list[Property]:
        told = [self._told(one, case) for one in check(case)]
        promise = "No process ends that was not ended by a fault."
        told.append(Property("processes_live", promise, not_checked=self._unseen["processes_live"]))
        told.append(Property(logs.NAME, logs.PROMISE, not_checked=self._unseen[logs.NAME]))
        held = sum(one.is_held for one in told)
        left = [one.name.replace("_", " ") for one in told if one.not_checked]
        self._notes.insert(
            0,
            f"{held} of the {len(told) - len(left)} properties that could be seen from outside"
            f" held; not checked: {', '.join(left)}",
        )
        return told

    def _told(self, found: Property, case: Case) -> Property:
        if found.name in self._unseen:
            return Property(found.name, found.promise, not_checked=self._unseen[found.name])
        if found.name == "events_start_their_runs" and self.starts:
            samples = list(_wrong_starts(case, self.starts))
            promise = "Every start by name started one run of its workflow, and no other."
            return Property(found.name, promise, len(samples), samples[:SAMPLES_MAX])
        if found.name == "outcomes_as_expected":
            return _without_deaths(found, case)
        promise = _PROMISES.get(found.name, found.promise)
        return msgspec.structs.replace(found, promise=promise)


def _names() -> list[str]:
    return [*(rule.__name__ for rule in PROPERTIES), "processes_live", logs.NAME]


def _without_deaths(found: Property, case: Case) -> Property:
    """A killing step kills once per machine: with four of them its run may be given up on."""
    given_up = [
        run.run_id
        for run in case.evidence.runs
        if run.workflow == "prove_killing" and run.reason == Reason.POISON
    ]
    samples = [one for one in found.samples if not any(id_ in one for id_ in given_up)]
    return msgspec.structs.replace(found, broken=found.broken - len(given_up), samples=samples)


def _wrong_starts(case: Case, starts: Starts) -> Iterator[str]:
    for event in case.evidence.events:
        found = sorted(run.workflow for run in case.runs_of.get(event.event_id, ()))
        expected = [starts.workflow_of(event.sender_id)]
        if found != expected or event.is_unrouted:
            yield f"start {event.sender_id} started {found}, expected {expected}"


def _progress(balance: TargetBalance, source: str) -> tuple[int, int]:
    """(settled, open) of this source."""
    runs = [account.runs for account in balance.of(source)]
    settled = sum(one["succeeded"] + one["failed"] + one["cancelled"] for one in runs)
    return settled, sum(one["open"] for one in runs)


def _books(balance: TargetBalance, source: str) -> Books:
    accounts = balance.of(source)
    both = [account.events | account.runs for account in accounts]
    return Books(*(sum(one[name] for one in both) for name in Books._fields))
