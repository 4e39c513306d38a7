"""A scenario: a deployment, a workload, faults while it runs, and what the checker says of it."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import msgspec

from veltrix.dev.children import CannotStart, wait_for
from veltrix.prove.check.checker import Property, check
from veltrix.prove.check.evidence import Clock, read_evidence
from veltrix.prove.check.history import Case
from veltrix.prove.check.logs import nothing_unforeseen
from veltrix.prove.deployment.database import Unreachable
from veltrix.prove.deployment.site import Site
from veltrix.prove.errands import Canceller, Errands
from veltrix.prove.faults import catalog
from veltrix.prove.faults.catalog import Fault, schedule
from veltrix.prove.faults.injections import Blow
from veltrix.prove.faults.striking import catch_rest
from veltrix.prove.load.pace import SendPace
from veltrix.prove.load.record import Record, read_record
from veltrix.prove.load.workload import Events, Workload
from veltrix.prove.report.report import Proof
from veltrix.prove.report.samples import Look, ProofSample, Watch
from veltrix.prove.report.summary import summarise

RECORD_FILE = "record.jsonl"
_POLL_S = 0.05
_CALM_S_MAX = 30.0
_LOOK_S_MIN = 5.0
_QUIET_LOOKS = 3
_SPARE = 2.5  # of the time that faults take: the load must not end before them
_LATE = """
select count(*) from runs
where due_at < now() - interval '1 second'
    or (state = 'queued' and started_at < now() - interval '2 seconds')
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `faults` are names; each is tried once a round."""

    scenario: str
    faults: tuple[str, ...]
    events: int
    seed: int
    rate: float | None = None
    seconds: float | None = None
    source: str
    command: str
    stall_s: float = 90.0
    queue_type: str | None = None  # of the workflow queues; None: as the platform has it
    slack: float = 1.0  # recovery targets are multiplied by it: for a machine that others share
    families: frozenset[str] = frozenset()  # whose kinds of events are sent beside the plain ones


class Driver:
    """Runs a plan against a site."""

    def __init__(
        self,
        plan: Plan,
        site: Site,
        show: Callable[[ProofSample], None],
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._site, self._show, self._say = plan, site, show, say
        self._chance = Random(f"{plan.seed}/faults")
        self._pause = Event()
        self._blows: list[Blow] = []
        self._notes: list[str] = []
        self._broken: list[str] = []  # what no process of a deployment may do
        self._clock = Clock()

    def run(self) -> Proof:
        """From the first event to the verdict."""
        plan, site = self._plan, self._site
        path = site.folder / RECORD_FILE
        pace = SendPace(plan.events, plan.rate)
        started_at = time.time()
        with ExitStack() as stack:
            record = stack.enter_context(Record(path))
            workload = Workload(
                site.front_urls,
                record,
                seed=plan.seed,
                source=plan.source,
                events=plan.events,
                pace=pace,
                doubles=site.api_urls,
                traffic=Events(plan.seed, plan.source, plan.families),
            )
            watch = Watch(lambda: self._look(workload), self._show)
            stack.enter_context(watch)
            errands = Errands(site, record, plan.source)
            site.send_events = errands.send
            stack.enter_context(Canceller(errands))
            self._expect(pace, self._faults())
            stack.enter_context(workload)
            self._strike_all(pace, workload, errands)
            pace.hurry()
            self._finish(workload)
            self._drain()
            if record.error is not None:
                raise record.error
        seconds = time.time() - started_at
        self._say("reading what is there")
        return self._conclude(workload, watch.samples, path, started_at, seconds)

    # Faults

    def _faults(self) -> list[Fault]:
        takes_s = sum(catalog.FAULTS[name].takes_s for name in self._plan.faults)
        rounds = 1
        if self._plan.seconds and takes_s:
            rounds = max(1, round(self._plan.seconds / takes_s))
        return schedule(self._plan.faults, self._plan.seed, rounds)

    def _expect(self, pace: SendPace, left: Sequence[Fault]) -> None:
        """The load lasts as long as the faults that are left, with some of it to spare."""
        pace.must_last(2.0 + _SPARE * sum(fault.takes_s for fault in left))

    def _strike_all(self, pace: SendPace, workload: Workload, errands: Errands) -> None:
        planned = self._faults()
        began = time.monotonic()
        wait_for(lambda: self._site.open_count() > 0, deadline_s=20)
        for number, fault in enumerate(planned):
            self._expect(pace, planned[number:])
            self._keep_alive()
            if workload.is_done:  # or it says what ended it
                self._notes.append(f"the workload was over before {fault.name}")
            self._strike(fault)
            wait_for(self._is_calm, deadline_s=_CALM_S_MAX)
            errands.operate()
            self._pause.wait(self._chance.uniform(0.2, 1.0))
        if self._plan.seconds is not None:
            left_s = self._plan.seconds - (time.monotonic() - began)
            pace.must_last(max(0.5, left_s))
            self._pause.wait(max(0.0, left_s))

    def _finish(self, workload: Workload) -> None:
        """Until everything was sent and answered, or for too long no answer came."""
        seen, since = -1, time.monotonic()
        while not workload.is_done:
            self._keep_alive()
            answered = workload.accepted + workload.refused + workload.duplicates
            if answered != seen:
                seen, since = answered, time.monotonic()
            elif time.monotonic() - since > self._plan.stall_s:
                self._broken.append(f"for {self._plan.stall_s:g} s no event was taken or refused")
                return
            self._pause.wait(_POLL_S)

    def _strike(self, fault: Fault) -> None:
        blow = Blow(fault.name, fault.target_s * self._plan.slack)
        self._blows.append(blow)
        try:
            fault.strike(self._site, blow, self._chance)
            self._await_recovery(blow)
        except (OSError, Unreachable, CannotStart, AssertionError) as error:
            said = f"{type(error).__name__}: {error}"[:300]
            if blow.at:
                blow.error = said
            else:
                blow.not_tried = said
        after = "not seen to recover" if blow.recovery_s is None else f"{blow.recovery_s:.2f} s"
        wrong = blow.not_tried or blow.error
        self._say(
            f"{fault.name}: {wrong}"
            if wrong
            else f"{fault.name}: {blow.open:,} open, {blow.in_hand:,} in hand; {after}"
        )

    def _await_recovery(self, blow: Blow) -> None:
        """Until every run that was open in it has been taken up again."""
        if not blow.is_tried:
            return
        if not blow.is_of_one:
            catch_rest(self._site, blow)
        moved: dict[str, float] = {}

        def is_over() -> bool:
            nonlocal moved
            moved = self._site.first_moves(blow.seq, blow.affected, blow.frozen_names)
            if blow.thawed_seq is not None:  # what nobody could rescue, they go on with themselves
                moved = self._site.first_moves(blow.thawed_seq, blow.affected) | moved
            # What was committed while we looked has no move after it: it is over, that is all.
            missing = [run_id for run_id in blow.affected if run_id not in moved]
            moved |= dict.fromkeys(self._site.settled(missing), blow.healed_at)
            return len(moved) >= len(blow.affected)

        left_s = blow.healed_at - time.time() + blow.target_s + self._plan.stall_s
        deadline_s = max(_LOOK_S_MIN, left_s)
        if wait_for(is_over, deadline_s=deadline_s):
            blow.recovered_at = max(moved.values(), default=blow.healed_at)
            blow.slowest = max(moved, key=lambda run_id: moved[run_id], default="")
        else:
            blow.slowest = next(id_ for id_ in blow.affected if id_ not in moved)

    def _is_calm(self) -> bool:
        """Nothing is left over from the fault before: the next one is seen by itself."""
        return self._site.one(_LATE) == 0

    def _keep_alive(self) -> None:
        """What ended by itself is started again, as a supervisor would, and told."""
        for name, member in list(self._site.members.items()):
            if not member.is_running:
                code = member.child.popen.returncode
                self._broken.append(f"{name} ended by itself (exit code {code})")
                self._say(self._broken[-1])
                self._site.start(name)

    # Looking

    def _look(self, workload: Workload) -> Look:
        settled = open_ = None
        counts = self._site.counts()
        if counts is not None:
            settled, open_ = counts
        self._site.look_at_commits()
        return Look(workload.sent, workload.accepted, settled, open_)

    def _drain(self) -> None:
        """Until nothing is open, or for too long no more runs come to an end than begin."""
        fewest, since = sys.maxsize, time.monotonic()
        looks = 0
        while looks < _QUIET_LOOKS:
            open_ = self._site.open_count()
            looks = 0 if open_ else looks + 1  # what nobody waits for may still be committed
            self._keep_alive()
            if open_ < fewest:
                fewest, since = open_, time.monotonic()
            elif time.monotonic() - since > self._plan.stall_s:
                self._notes.append(
                    f"{open_:,} runs are open, and for {self._plan.stall_s:g} s none ended"
                )
                return
            self._pause.wait(0.2)

    def _conclude(
        self,
        workload: Workload,
        samples: list[ProofSample],
        path: Path,
        started_at: float,
        seconds: float,
    ) -> Proof:
        self._await_letters()
        self._clock.stop()
        with self._site.connect() as connection:
            evidence = read_evidence(
                connection,
                self._plan.source,
                self._site.effects_file,
                self._clock,
                self._site.history,
            )
        case = Case(
            read_record(path),
            evidence,
            self._blows,
            committed=self._site.committed,
            slack=self._plan.slack,
            hold_s=self._site.hold_s,
        )
        logs = nothing_unforeseen(
            self._site.folder / "logs",
            has_faketime=bool(set(self._plan.faults) & catalog.NEED_FAKETIME),
        )
        properties = [*check(case), self._processes_live(), logs]
        return summarise(
            self._plan,
            case,
            properties,
            acknowledged=workload.acknowledged,
            samples=samples,
            unaccounted=self._site.unaccounted(),
            notes=self._notes,
            started_at=started_at,
            seconds=seconds,
        )

    def _await_letters(self) -> None:
        """What strangers sent is written down a moment after it was taken."""
        expected = {digest for blow in self._blows for digest in blow.letters}
        wait_for(lambda: expected <= self._site.letters(), deadline_s=min(20.0, self._plan.stall_s))

    def _processes_live(self) -> Property:
        found = Property(
            "processes_live",
            "No process ends that was not ended by a fault, and each ends as it was told to.",
        )
        found.samples = self._broken + self._site.misdeeds
        found.broken = len(found.samples)
        return found


def prove(
    plan: Plan,
    folder: Path,
    *,
    show: Callable[[ProofSample], None] = lambda _sample: None,
    say: Callable[[str], None] = lambda _line: None,
    **site: Any,
) -> Proof:
    """Run a plan on a deployment of its own in `folder`, which keeps record and logs.

    `CannotStart` when something it needs is not installed.
    """
    names = set(plan.faults)
    needs: dict[str, Any] = {
        "has_lines": bool(names & catalog.NEED_LINES),
        "has_small_disk": "disk_full" in names,
        "has_balancer": bool(names & catalog.NEED_BALANCER),
        "has_front": bool(names & catalog.NEED_FRONT),
        "is_cluster": bool(names & catalog.NEED_CLUSTER),
    }
    if needs["is_cluster"] and (alone := names & catalog.NEED_ONE_NODE):
        raise CannotStart(f"not with a cluster: {', '.join(sorted(alone))}")
    if plan.queue_type is not None:
        site["queue_type"] = plan.queue_type
    with Site(folder, **needs, **site) as one:
        return Driver(plan, one, show, say).run()
