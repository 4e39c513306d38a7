"""One run being executed: its coroutines, where they are, and what is not yet written."""

from collections.abc import Callable, Coroutine
from contextvars import Context
from copy import copy
from heapq import heappush
from itertools import count
from typing import Any

import msgspec

from veltrix.authoring.encoding import arguments_text, encode
from veltrix.authoring.flow import OpenCalls
from veltrix.authoring.steps import StepCall
from veltrix.authoring.workflows import Workflow
from veltrix.domain.places import DEPLOY_POSITION, WORKER_POSITION
from veltrix.domain.states import Reason, RunState
from veltrix.pipeline.execute.coroutines.abandon import abandon
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry, Past, Settlement
from veltrix.pipeline.execute.lease_rows import Claim

_decode = msgspec.json.Decoder().decode
_order = count()


class StepTimeout(BaseException):
    """A step exceeded its limit. No Exception: an author's `except Exception` must not eat it."""


class JournalMismatch(BaseException):
    """The code asks for something else than the journal holds at this position."""


class ExecutionLimits(msgspec.Struct, frozen=True):
    """What an execution must respect, from the settings; and its sources of time and chance."""

    output_bytes_max: int
    error_chars_max: int
    step_timeout_s: float
    journal_write_s: float
    deploy_grace_s: float
    deploy_backoff_s: float
    monotonic: Callable[[], float]
    jitter: Callable[[], float]
    arguments_bytes_max: int = 1_024
    hold_s: float = 8.0  # how long a lease holds
    # Told the database's time, and when it was asked (monotonic), whenever it answers.
    on_time: Callable[[float, float], object] = lambda _asked, _database_s: None
    has_own_limits: bool = True  # steps have the limits that their authors gave them

    def of_step(self, own_s: float | None) -> float:
        """How long an attempt of a step with this limit of its own may take, in seconds."""
        return self.step_timeout_s if own_s is None or not self.has_own_limits else own_s


class Ending(msgspec.Struct, gc=False, frozen=True):
    """What was decided of a run, for `Execution.end` to do; made by `endings`.

    `failed_attempt` is the evidence, `entry` the step that has failed for good with it. `is_alone`:
    nothing else that this claim has not written yet is to be written.
    """

    settlement: Settlement
    failed_attempt: FailedAttempt | None = None
    entry: JournalEntry | None = None
    is_alone: bool = False


class PendingStep:
    """A step that a run has asked for, at its position.

    `given` is when it was handed over to be run, `started` when the attempt began; 0 until then.
    `attempt` counts what began, crashes too; `tries` what counts against its retries. `limit_s` is
    less than that of the step where the run's own limit is nearer.
    """

    __slots__ = (
        "arguments",
        "attempt",
        "branch",
        "call",
        "digest",
        "execution",
        "given",
        "limit_s",
        "position",
        "started",
        "tries",
    )

    def __init__(
        self,
        execution: "Execution",
        branch: "Branch",
        call: StepCall,
        position: str,
        digest: bytes | None,
        encoded: bytes | None,
    ) -> None:
        self.execution, self.branch, self.call, self.position = execution, branch, call, position
        self.digest = digest
        self.arguments = arguments_text(encoded, execution.limits.arguments_bytes_max)
        failed = execution.failures.get(position)
        self.attempt = failed.count + 1 if failed else 1
        self.tries = self.attempt - failed.crashes if failed else 1
        self.limit_s = execution.limits.of_step(call.step.timeout_s)
        self.given = self.started = 0.0

    def again(self) -> "PendingStep":
        """The attempt after this one."""
        step = copy(self)
        step.attempt, step.tries = self.attempt + 1, self.tries + 1
        step.given = step.started = 0.0
        return step

    def entry(self, text: str | None, error: str | None) -> JournalEntry:
        """How the step ended, for the journal: its output, or the error that is final."""
        run_id, name = self.execution.claim.run_id, self.call.step.name
        entry = JournalEntry(
            run_id, self.position, "step", name, self.digest, text, error, self.attempt
        )
        self.mark(entry)
        return entry

    def mark(self, evidence: JournalEntry | FailedAttempt) -> None:
        """Say when the attempt that ends now began, and with what arguments."""
        evidence.arguments = self.arguments
        if self.started:
            evidence.began = self.started
            took_s = self.execution.limits.monotonic() - self.started
            evidence.took_ms = int(took_s * 1000 + 0.5)


class Branch:
    """A coroutine of the run: the workflow itself, or a branch of a `gather`.

    What its code sets in `context` is seen by its own steps and branches, as with asyncio's tasks,
    and by no other run.
    """

    __slots__ = (
        "context",
        "coroutine",
        "errors",
        "execution",
        "index",
        "is_errors_returned",
        "keys",
        "open_branches",
        "open_calls",
        "parent",
        "prefix",
        "requests_made",
        "results",
    )

    def __init__(
        self,
        execution: "Execution",
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        prefix: str = "",
        parent: "Branch | None" = None,
        index: int = 0,
    ) -> None:
        self.execution, self.coroutine, self.prefix = execution, coroutine, prefix
        self.context = context
        self.open_calls = execution.open_calls
        self.parent, self.index = parent, index
        self.requests_made = self.keys = 0
        self.open_branches = 0
        self.results: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.is_errors_returned = False

    def next_position(self) -> str:
        """The path of the next request: this branch's prefix and its own count."""
        self.requests_made += 1
        return f"{self.prefix}{self.requests_made}"

    def key(self) -> str:
        """Another key at each call, the same ones whenever the code is run again."""
        self.keys += 1
        return f"{self.execution.claim.run_id}:{self.prefix}key{self.keys}"

    def record(self, name: str, make: Callable[[], Any]) -> Any:
        """The value recorded at this position, or the one that `make` gives, from now on."""
        execution, position = self.execution, self.next_position()
        try:
            entry = execution.take_entry(position, "value", name)
        except JournalMismatch as mismatch:
            execution.mismatch = str(mismatch)  # whatever its author's code makes of the error
            raise
        if entry is not None:
            return _decode(entry.output or "null")
        value = make()
        text = encode(value, execution.limits.output_bytes_max)
        execution.unwritten.append(
            JournalEntry(execution.claim.run_id, position, "value", name, None, text)
        )
        return value


class Execution:
    """A claimed run that this child has: what is known and decided of it, and not yet written.

    What happens to it is in `moves`; the outcome is decided in `endings`.
    """

    __slots__ = (
        "branches",
        "busy_s",
        "claim",
        "claimed",
        "code_version",
        "deadline",
        "entries",
        "failed_attempts",
        "failures",
        "has_begun",
        "has_journal",
        "in_flight",
        "is_announced",
        "is_cancel_requested",
        "is_lost",
        "is_over",
        "is_returned",
        "key",
        "limits",
        "mismatch",
        "open_calls",
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
        limits: ExecutionLimits,
    ) -> None:
        self.claim, self.workflow, self.limits = claim, workflow, limits
        self.code_version = code_version
        self.entries: dict[str, JournalEntry] = past.entries if past else {}
        self.failures = past.failures if past else {}
        self.has_journal = bool(self.entries)  # or something was written of it meanwhile
        self.unwritten: list[JournalEntry] = []
        self.failed_attempts: list[FailedAttempt] = []
        self.pending: list[PendingStep] = []  # asked for, not yet given to be run
        self.todo: list[PendingStep] = []  # given; the sync ones not begun, the next one last
        # What sleeps or backs off, as a heap: until when, its branch, the step to be tried again.
        self.wakes: list[tuple[float, int, Branch, PendingStep | None]] = []
        self.open_calls: OpenCalls = {}
        self.in_flight = 0  # given, and not yet ended
        self.settlement: Settlement | None = None
        self.mismatch: str | None = None
        self.is_over = self.has_begun = self.is_lost = False
        self.is_announced = claim.handed_by is None  # its row says that it is run here
        self.is_returned = False  # the worker leaves: what it could do now is another's to do
        self.is_cancel_requested, self.key = claim.is_cancel_requested, claim.key
        self.busy_s = 0.0  # that its own code and steps kept the child from anything else
        self.branches: dict[Branch, None] = {}  # that have not ended
        self.claimed = limits.monotonic()
        self.deadline: float | None = None
        if workflow.timeout_s is not None:
            age_s = (claim.now - claim.first_claimed_at).total_seconds()
            self.deadline = self.claimed + workflow.timeout_s - age_s

    def settle(
        self, state: RunState, *, wait_s: float | None = None, reason: Reason | None = None
    ) -> None:
        """Decide what becomes of the run; the next write says so in the ledger."""
        self.settlement = self.settlement_of(state, wait_s, reason)

    def settlement_of(
        self, state: RunState, wait_s: float | None = None, reason: Reason | None = None
    ) -> Settlement:
        """The run settled so, or waiting; nothing is decided by it."""
        return Settlement(
            run_id=self.claim.run_id,
            state=state._value_,  # `value` is two calls of Python
            wait_s=wait_s,
            reason=None if reason is None else reason.value,
            key=self.key,
            code_version=self.code_version,
            handed_by=self.claim.handed_by,
            began=None if self.claim.handed_by is None else self.claimed,
        )

    def end(self, ending: Ending) -> None:
        """As `settle`, with the evidence for it."""
        if ending.is_alone:
            self.unwritten, self.failed_attempts = [], []
        if ending.failed_attempt is not None:
            self.note(ending.failed_attempt)
        if ending.entry is not None:
            self.unwritten.append(ending.entry)
        self.settlement = ending.settlement

    def note(self, failed: FailedAttempt) -> None:
        """Keep the evidence of a failed attempt, to be written with the journal."""
        self.failed_attempts.append(failed)

    def wake(self, at: float, branch: Branch, step: PendingStep | None = None) -> None:
        """This branch goes on at `at`, in monotonic seconds; with another attempt of `step`."""
        heappush(self.wakes, (at, next(_order), branch, step))

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

    @property
    def has_news(self) -> bool:
        """There is something to write."""
        return bool(self.settlement or self.unwritten or self.failed_attempts)

    @property
    def has_run(self) -> bool:
        """Something of the run was done before, so its `when` has said yes: once, for all of it."""
        return bool(self.entries) or any(
            position not in ("", DEPLOY_POSITION, WORKER_POSITION) for position in self.failures
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
        branches, self.branches = self.branches, {}
        if branches:
            abandon(branch.coroutine for branch in branches)

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
        limit_s = self.limits.of_step(step.call.step.timeout_s)
        if self.deadline is not None:
            limit_s = max(0.001, min(limit_s, self.deadline - now))
        return limit_s
