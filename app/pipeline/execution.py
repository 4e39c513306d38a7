"""One run being executed: its coroutines, where they are, and what is not yet written.

The workflow's code is advanced as soon as a step has finished, so that the last step's output and
the outcome are written together; but a step that it asks for starts only when everything before it
is written (`runnable`). After a crash the same code is advanced through the journal: finished steps
answer at once.
"""

from typing import Any

import msgspec

from app import telemetry
from app.domain.decide import retry_delay_s, storable_text
from app.domain.encoding import InvalidInput, Unstorable, digest, encode
from app.domain.events import Event, identity_shown
from app.domain.flow import Gather, Sleep, StepCall, here
from app.domain.states import Reason, RunState
from app.domain.workflows import Workflow
from app.pipeline import failures
from app.pipeline.frames import Frame, JournalMismatch, Limits, PendingStep
from app.store.journal import FailedAttempt, JournalEntry, Past, Settlement
from app.store.leases import Claim

_decode = msgspec.json.Decoder().decode
Answer = tuple[bool, Any, BaseException | None]  # answered now?, with this value, or this error
_LATER: Answer = (False, None, None)


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
        "is_over",
        "key",
        "limits",
        "pending",
        "settlement",
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
        self.pending: list[PendingStep] = []
        self.wakes: list[float] = []
        self.in_flight = 0
        self.settlement: Settlement | None = None
        self.is_over = self.has_begun = False
        self.is_cancel_requested, self.key = claim.is_cancel_requested, claim.key
        self.busy_s = 0.0  # that its own code and steps kept the child from anything else
        self.frames: list[Frame] = []
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
        workflow = self.workflow
        try:
            event = event_of(self.claim, workflow)
            if workflow.key is not None:
                key = workflow.key(event)
                self.key = None if key is None else storable_text(str(key), 1_000)
            if workflow.when is not None and not workflow.when(event):
                return self.settle(RunState.SUCCEEDED, reason=Reason.SKIPPED)
        except InvalidInput as error:
            return failures.fail_input(self, error)
        except Exception as error:  # noqa: BLE001 - the author's predicates may raise anything
            return failures.fail_workflow(self, error)
        root = Frame(self, workflow.function(event))  # type: ignore[arg-type]
        self.frames.append(root)
        self._advance(root, None, None)
        self._rest()
        return None

    def finish_step(self, step: PendingStep, value: Any, text: str) -> None:
        """A step's output is known: record its JSON `text`, advance with `value`."""
        self.in_flight -= 1
        self.journal(step, text, None)
        self._advance(step.frame, value, None)
        self._rest()

    def fail_step(self, step: PendingStep, error: BaseException) -> None:
        """An attempt failed: record it; then wait for the next one, or let the workflow know."""
        self.in_flight -= 1
        name, policy = step.call.step.name, step.call.step.policy
        delay_s = retry_delay_s(
            policy, step.attempt, self.limits.jitter(), is_final=policy.is_final(error)
        )
        failed = failures.note_attempt(self, step.position, name, step.attempt, error, delay_s)
        if delay_s is not None:
            self.wakes.append(self.limits.monotonic() + delay_s)
        else:
            parts = failed.type, failed.message, failed.fingerprint
            self.journal(step, None, failures.error_text(*parts))
            self._advance(step.frame, None, failures.step_failed(name, *parts))
        self._rest()

    def fail_unstorable(self, step: PendingStep, error: Exception) -> None:
        """The step's output cannot be kept: the run fails with that reason."""
        self.in_flight -= 1
        failures.fail_unstorable(self, step.call.step.name, step.position, step.attempt, error)

    def runnable(self) -> list[PendingStep]:
        """The steps that may start now: none while something before them is not written."""
        if self.has_news or not self.pending:
            return []
        if self.is_cancel_requested:
            self._rest()
            return []
        now = self.limits.monotonic()
        if self.deadline is not None and now >= self.deadline:
            failures.time_out(self)
            return []
        steps, self.pending = self.pending, []
        for step in steps:
            own = step.call.step.timeout_s
            step.limit_s = self.limits.step_timeout_s if own is None else own
            if self.deadline is not None:
                step.limit_s = max(0.001, min(step.limit_s, self.deadline - now))
        self.in_flight += len(steps)
        return steps

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
            state=state.value,
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
        """Let go of the coroutines: the run is over, or goes on elsewhere."""
        self.is_over = True
        for step in self.pending:
            step.call.is_awaited = True
        self.pending = []
        for frame in reversed(self.frames):
            try:
                frame.coroutine.close()
            except BaseException as error:  # noqa: BLE001 - a `finally` cannot hold what is over
                telemetry.logger("execute").debug("coroutine.refused_to_close", error=repr(error))
        self.frames = []

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

    # ---- advancing

    def _advance(self, frame: Frame, value: Any, error: BaseException | None) -> None:
        answered = True
        while answered:
            here.recorder = frame
            try:
                if error is None:
                    request = frame.coroutine.send(value)
                else:
                    request = frame.coroutine.throw(error)
                here.recorder = None
                answered, value, error = self._ask(frame, request)
            except StopIteration as stop:
                here.recorder = None
                return self._finish(frame, stop.value, None)
            except JournalMismatch as mismatch:
                here.recorder = None
                return self._mismatch(str(mismatch))
            except BaseException as raised:  # noqa: BLE001 - whatever it raises is its outcome
                here.recorder = None
                return self._finish(frame, None, raised)
        return None

    def _ask(self, frame: Frame, request: Any) -> Answer:
        if type(request) is StepCall:
            return self._ask_step(frame, request)
        if type(request) is Sleep:
            return self._ask_sleep(frame, request)
        if type(request) is Gather:
            return self._ask_gather(frame, request)
        message = (
            f"a workflow can await steps, gather() and sleep(), not {type(request).__name__};"
            " put other awaitables into a step"
        )
        return True, None, TypeError(message)

    def _ask_step(self, frame: Frame, call: StepCall) -> Answer:
        position = frame.next_position()
        arguments = digest(call.arguments, call.keywords)
        entry = self.take_entry(position, "step", call.step.name)
        if entry is None:
            failed = self.failures.get(position)
            left_s = (failed.retry_delay_s or 0.0) - failed.last_s if failed else 0.0
            if left_s > 0:
                self.wakes.append(self.claimed + left_s)
            else:
                self.pending.append(PendingStep(self, frame, call, position, arguments))
            return _LATER
        if None not in (entry.arguments_digest, arguments) and entry.arguments_digest != arguments:
            raise JournalMismatch(
                f"step {call.step.name!r} at {position} was recorded with other arguments"
            )
        if entry.error is not None:
            error = _decode(entry.error)
            parts = error["type"], error["message"], error.get("fingerprint")
            return True, None, failures.step_failed(call.step.name, *parts)
        return True, call.step.codec.recorded(entry.output or "null"), None

    def _ask_sleep(self, frame: Frame, request: Sleep) -> Answer:
        position = frame.next_position()
        entry = self.take_entry(position, "sleep", "sleep")
        if entry is None:
            text = repr(request.seconds)
            self.unwritten.append(
                JournalEntry(self.claim.run_id, position, "sleep", "sleep", None, text)
            )
            self.wakes.append(self.limits.monotonic() + request.seconds)
            return _LATER
        left_s = float(entry.output or "0") - entry.age_s
        if left_s > 0:
            self.wakes.append(self.claimed + left_s)
            return _LATER
        return True, None, None

    def _ask_gather(self, frame: Frame, request: Gather) -> Answer:
        position = frame.next_position()
        coroutines = request.coroutines()
        if not coroutines:
            return True, [], None
        frame.branches = len(coroutines)
        frame.results = [None] * len(coroutines)
        frame.is_errors_returned = request.is_exceptions_returned
        children = [
            Frame(self, coroutine, f"{position}.{index}.", frame, index)
            for index, coroutine in enumerate(coroutines)
        ]
        self.frames += children
        for child in children:
            if self.settlement is None:
                self._advance(child, None, None)
        return _LATER

    def _finish(self, frame: Frame, value: Any, error: BaseException | None) -> None:
        if self.settlement is not None:
            return
        parent = frame.parent
        if parent is None:
            if error is None:
                self._succeed(value)
            else:
                failures.fail_workflow(self, error)
            return
        parent.results[frame.index] = value if error is None else error
        parent.branches -= 1
        if parent.branches:
            return
        errors = [r for r in parent.results if isinstance(r, BaseException)]
        if errors and not parent.is_errors_returned:
            self._advance(parent, None, errors[0])
        else:
            self._advance(parent, parent.results, None)

    def _succeed(self, value: Any) -> None:
        if self.entries:
            first = min(self.entries)
            return self._mismatch(f"the workflow ended, but the journal goes on at {first}")
        try:
            outcome = encode(value, self.limits.output_bytes_max)
        except Unstorable as error:
            return failures.fail_unstorable(self, "", "", self.failed_count("") + 1, error)
        return self.settle(RunState.SUCCEEDED, outcome=outcome)

    def _mismatch(self, detail: str) -> None:
        """The journal and the code disagree: never guess, write nothing of this attempt."""
        self.unwritten, self.failed_attempts = [], []
        failures.hold_for_deploy(self, Reason.JOURNAL_MISMATCH, detail)

    def journal(self, step: PendingStep, text: str | None, error: str | None) -> None:
        """Record how a step ended: its output, or the error that is final."""
        run_id, name = self.claim.run_id, step.call.step.name
        entry = JournalEntry(
            run_id, step.position, "step", name, step.digest, text, error, step.attempt
        )
        self.unwritten.append(entry)

    def _rest(self) -> None:
        """If nothing of the run can go on here, decide how it waits or ends."""
        if self.settlement is not None or self.in_flight:
            return
        if self.is_cancel_requested:
            self.settle(RunState.CANCELLED, reason=Reason.REQUESTED)
        elif not self.pending and self.wakes:
            wake = min(self.wakes)
            if self.deadline is not None:
                wake = min(wake, self.deadline)
            self.settle(RunState.WAITING, wait_s=max(0.0, wake - self.limits.monotonic()))


def event_of(claim: Claim, workflow: Workflow) -> Event[Any]:
    """The event as its author sees it. Raises InvalidInput if its data does not fit."""
    if claim.source is None:
        raise InvalidInput("the event of this run is no longer in the ledger")
    data: Any = claim.data_binary
    if claim.data is not None:
        data = workflow.codec.input(claim.data)
    elif workflow.codec.input_type is not Any:
        raise InvalidInput("the event has no JSON data")
    extensions = _decode(claim.extensions) if claim.extensions else {}
    source, id_, type_ = identity_shown(claim.source, claim.sender_id, claim.type, extensions)
    return Event(
        source=source,
        id=id_,
        type=type_,
        data=data,
        subject=claim.subject,
        time=claim.time,
        datacontenttype=claim.datacontenttype,
        dataschema=claim.dataschema,
        extensions=extensions,
        traceparent=claim.traceparent,
        event_id=claim.event_id,
        accepted_at=claim.accepted_at,
    )
