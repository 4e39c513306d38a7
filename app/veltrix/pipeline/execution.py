"""One run being executed: its coroutines, where they are, and what is not yet written.

The workflow's code is advanced as soon as a step has finished, so that the last step's output and
the outcome are written together; but a step that it asks for starts only when everything before it
is written (`runnable`). After a crash the same code is advanced through the journal: finished steps
answer at once.
"""

from collections.abc import Coroutine
from heapq import heappop, heappush
from itertools import count
from typing import Any

import msgspec

from veltrix.domain.decide import retry_delay_s, storable_text
from veltrix.domain.encoding import InvalidInput, Unstorable, encode
from veltrix.domain.flow import coroutine_of, run_here
from veltrix.domain.places import DEPLOY_POSITION, WORKER_POSITION
from veltrix.domain.states import Reason, RunState
from veltrix.domain.workflows import Workflow
from veltrix.pipeline import failures
from veltrix.pipeline.abandon import abandon
from veltrix.pipeline.advance import advance
from veltrix.pipeline.contexts import fresh
from veltrix.pipeline.event_input import event_of
from veltrix.pipeline.frames import Frame, JournalMismatch, Limits, PendingStep
from veltrix.store.journal import FailedAttempt, JournalEntry, Past, Settlement
from veltrix.store.leases import Claim

_decode = msgspec.json.Decoder().decode
_order = count()


class Execution:
    """A claimed run in this child's hand."""

    __slots__ = (
        "busy_s",
        "claim",
        "claimed",
        "code_version",
        "deadline",
        "entries",
        "failed_attempts",
        "failures",
        "frames",
        "has_begun",
        "in_flight",
        "is_cancel_requested",
        "is_lost",
        "is_over",
        "is_returned",
        "key",
        "limits",
        "mismatch",
        "pending",
        "settlement",
        "todo",
        "unwritten",
        "wakes",
        "workflow",
    )

    def __init__(
        self,
        claim: Claim,
        workflow: Workflow,
        code_version: str | None,
        past: Past | None,
        limits: Limits,
    ) -> None:
        self.claim, self.workflow, self.limits = claim, workflow, limits
        self.code_version = code_version
        self.entries: dict[str, JournalEntry] = past.entries if past else {}
        self.failures = past.failures if past else {}
        self.unwritten: list[JournalEntry] = []
        self.failed_attempts: list[FailedAttempt] = []
        self.pending: list[PendingStep] = []  # asked for, not yet given to be run
        self.todo: list[PendingStep] = []  # given; the sync ones not begun, the next one last
        # What sleeps or backs off, as a heap: until when, its frame, the step to be tried again.
        self.wakes: list[tuple[float, int, Frame, PendingStep | None]] = []
        self.in_flight = 0  # given, and not yet ended
        self.settlement: Settlement | None = None
        self.mismatch: str | None = None
        self.is_over = self.has_begun = self.is_lost = False
        self.is_returned = False  # the worker leaves: what it could do now is another's to do
        self.is_cancel_requested, self.key = claim.is_cancel_requested, claim.key
        self.busy_s = 0.0  # that its own code and steps kept the child from anything else
        self.frames: dict[Frame, None] = {}  # that have not ended
        self.claimed = limits.monotonic()
        self.deadline: float | None = None
        if workflow.timeout_s is not None:
            age_s = (claim.now - claim.first_claimed_at).total_seconds()
            self.deadline = self.claimed + workflow.timeout_s - age_s

    @property
    def has_news(self) -> bool:
        """There is something to write."""
        return bool(self.settlement or self.unwritten or self.failed_attempts)

    # ---- the life of an execution, called by the engine

    def begin(self) -> None:
        """Check the input and advance the workflow to its first requests."""
        if self.is_cancel_requested:
            return self.settle(RunState.CANCELLED, reason=Reason.REQUESTED)
        if self.deadline is not None and self.is_late(self.limits.monotonic()):
            return failures.time_out(self)
        context = fresh()
        try:
            coroutine = context.run(self._open)
        except InvalidInput as error:
            return failures.fail_input(self, error)
        except BaseException as error:  # noqa: BLE001 - the author's predicates may raise anything
            return failures.fail_workflow(self, error)
        if coroutine is None:
            return self.settle(RunState.SUCCEEDED, reason=Reason.SKIPPED)
        root = Frame(self, coroutine, context)
        self.frames[root] = None
        advance(self, root, None, None)
        self._rest()
        return None

    def _open(self) -> Coroutine[Any, Any, Any] | None:
        """The workflow's coroutine; None if its `when` says that there is nothing to do."""
        run_here.set(self.claim)
        workflow = self.workflow
        event = event_of(self.claim, workflow)
        if workflow.key is not None:
            key = workflow.key(event)
            self.key = None if key is None else storable_text(str(key), 1_000)
        if workflow.when is not None and not self._has_run() and not workflow.when(event):
            return None
        return coroutine_of(workflow.function(event))

    def _has_run(self) -> bool:
        """Something of the run was done before, so its `when` has said yes: once, for all of it."""
        return bool(self.entries) or any(
            position not in ("", DEPLOY_POSITION, WORKER_POSITION) for position in self.failures
        )

    def finish_step(self, step: PendingStep, value: Any, text: str) -> None:
        """A step's output is known: record its JSON `text`, advance with `value`."""
        self.in_flight -= 1
        self.journal(step, text, None)
        advance(self, step.frame, value, None)
        self._rest()

    def fail_step(self, step: PendingStep, error: BaseException) -> None:
        """An attempt failed: record it; then wait for the next one, or let the workflow know."""
        policy = step.call.step.policy
        delay_s = retry_delay_s(
            policy, step.tries, self.limits.jitter(), is_final=policy.is_final(error)
        )
        self.end_attempt(step, error, delay_s)

    def end_attempt(
        self,
        step: PendingStep,
        error: BaseException,
        delay_s: float | None,
        *,
        is_next: bool = False,
    ) -> None:
        """An attempt failed, and the next follows in `delay_s`; None: none follows.

        `is_next`: the next one is made here, as soon as this one is written.
        """
        self.in_flight -= 1
        name = step.call.step.name
        failed = failures.note_attempt(
            self, step.position, name, step.attempt, error, delay_s, step
        )
        if is_next:
            self.pending.append(step.again())
        elif delay_s is not None:
            self.wake(self.limits.monotonic() + delay_s, step.frame, step.again())
        else:
            parts = failed.type, failed.message, failed.fingerprint
            self.journal(step, None, failures.error_text(*parts))
            advance(self, step.frame, None, failures.step_failed(name, *parts))
        self._rest()

    def wake(self, at: float, frame: Frame, step: PendingStep | None = None) -> None:
        """This frame goes on at `at`, in monotonic seconds; with another attempt of `step`."""
        heappush(self.wakes, (at, next(_order), frame, step))

    def rouse(self, now: float) -> None:
        """Beside what is in flight, go on with what has slept or backed off long enough."""
        while self.wakes and self.wakes[0][0] <= now and self.may_begin(now):
            _, _, frame, step = heappop(self.wakes)
            if step is not None:
                self.pending.append(step)
            else:
                advance(self, frame, None, None)

    def fail_unstorable(self, step: PendingStep, error: Exception) -> None:
        """The step's output cannot be kept: the run fails with that reason."""
        self.in_flight -= 1
        failures.fail_unstorable(
            self, step.call.step.name, step.position, step.attempt, error, step
        )

    def runnable(self) -> list[PendingStep]:
        """The steps to be given now: none while something before them is not written."""
        if self.has_news or not self.pending:
            return []
        now = self.limits.monotonic()
        if not self.may_begin(now):
            self.withdraw()
            return []
        steps, self.pending = self.pending, []
        for step in steps:
            step.given = now
            if self.deadline is not None:
                step.limit_s = self.limit_of(step, now)
        self.in_flight += len(steps)
        return steps

    # ---- the gate before each step; for any thread

    def may_begin(self, now: float) -> bool:
        """Whether a step of this run may begin: not over, cancelled, late, or somebody else's."""
        return not (
            self.is_over
            or self.is_lost
            or self.is_cancel_requested
            or self.settlement is not None
            or (self.deadline is not None and now >= self.deadline)
        )

    def is_late(self, now: float) -> bool:
        """The run is past the limit of its workflow."""
        return self.deadline is not None and now >= self.deadline

    def limit_of(self, step: PendingStep, now: float) -> float:
        """How long an attempt of this step that begins now may take, in seconds."""
        own = step.call.step.timeout_s
        limit_s = self.limits.step_timeout_s if own is None else own
        if self.deadline is not None:
            limit_s = max(0.001, min(limit_s, self.deadline - now))
        return limit_s

    def withdraw(self, refused: int = 0) -> None:
        """None of its steps that have not begun does so here; decide how the run waits or ends.

        `refused` are those given that were refused at the gate.
        """
        self.in_flight -= refused + len(self.todo)
        self.todo.clear()
        self.pending = []
        if self.is_lost:
            self.close()
        elif not self.is_over:
            self.is_returned = self.is_returned or self.may_begin(self.limits.monotonic())
            self._rest()

    def settle(
        self,
        state: RunState,
        *,
        wait_s: float | None = None,
        outcome: str | None = None,
        reason: Reason | None = None,
        fingerprint: str | None = None,
        failed_step: str | None = None,
    ) -> None:
        """Decide what becomes of the run; the next write says so in the ledger."""
        self.settlement = Settlement(
            run_id=self.claim.run_id,
            state=state._value_,  # `value` is two calls of Python
            wait_s=wait_s,
            outcome=outcome,
            reason=None if reason is None else reason.value,
            fingerprint=fingerprint,
            failed_step=failed_step,
            key=self.key,
            code_version=self.code_version,
        )

    @property
    def outcome(self) -> str:
        """What became of this claim: the state it was settled with, or "lost"."""
        return self.settlement.state if self.settlement is not None else "lost"

    @property
    def is_settled(self) -> bool:
        """The run has its outcome."""
        return self.settlement is not None and self.settlement.wait_s is None

    def close(self) -> None:
        """The run is over, or goes on elsewhere: nothing of its code runs here any more."""
        self.is_over = True
        self.pending = []
        self.todo.clear()
        frames, self.frames = self.frames, {}
        if frames:
            abandon(frame.coroutine for frame in frames)

    # ---- what frames need

    def failed_count(self, position: str) -> int:
        """Attempts that failed at a position, before this claim."""
        failed = self.failures.get(position)
        return failed.count if failed else 0

    def take_entry(self, position: str, kind: str, name: str) -> JournalEntry | None:
        """The journal's entry at a position. Raises JournalMismatch if it is of something else."""
        if not self.entries:
            return None
        entry = self.entries.pop(position, None)
        if entry is not None and (entry.kind, entry.name) != (kind, name):
            raise JournalMismatch(
                f"position {position} was {entry.kind} {entry.name!r}, the code now asks for"
                f" {kind} {name!r}"
            )
        return entry

    # ---- how it ends

    def succeed(self, value: Any) -> None:
        """The workflow has returned `value`: the outcome, if the journal ends here as well."""
        if self.entries:
            first = min(self.entries)
            return self.mismatched(f"the workflow ended, but the journal goes on at {first}")
        try:
            outcome = encode(value, self.limits.output_bytes_max)
        except Unstorable as error:
            return failures.fail_unstorable(self, "", "", self.failed_count("") + 1, error)
        return self.settle(RunState.SUCCEEDED, outcome=outcome)

    def mismatched(self, detail: str) -> None:
        """The journal and the code disagree: never guess, write nothing of this attempt."""
        self.unwritten, self.failed_attempts = [], []
        failures.hold_for_deploy(self, Reason.JOURNAL_MISMATCH, detail)

    def journal(self, step: PendingStep, text: str | None, error: str | None) -> None:
        """Record how a step ended: its output, or the error that is final."""
        run_id, name = self.claim.run_id, step.call.step.name
        entry = JournalEntry(
            run_id, step.position, "step", name, step.digest, text, error, step.attempt
        )
        step.mark(entry)
        self.unwritten.append(entry)

    def _rest(self) -> None:
        """If nothing of the run can go on here, decide how it waits or ends."""
        if self.settlement is not None or self.in_flight:
            return None
        if self.is_cancel_requested:
            return self.settle(RunState.CANCELLED, reason=Reason.REQUESTED)
        if self.deadline is None and not self.is_returned and (self.pending or not self.wakes):
            return None  # as most runs are
        now = self.limits.monotonic()
        if self.is_late(now):
            failures.time_out(self)
        elif self.is_returned:
            self.settle(RunState.QUEUED, wait_s=0.0)
        elif not self.pending and self.wakes:
            wake = self.wakes[0][0]
            if self.deadline is not None:
                wake = min(wake, self.deadline)
            self.settle(RunState.WAITING, wait_s=max(0.0, wake - now))
        return None
