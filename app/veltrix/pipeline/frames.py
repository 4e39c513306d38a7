"""The parts of an execution: its coroutines, the steps they ask for, and what it must respect."""

from collections.abc import Callable, Coroutine
from contextvars import Context
from copy import copy
from typing import TYPE_CHECKING, Any

import msgspec

from veltrix.domain.encoding import arguments_text, encode
from veltrix.domain.flow import StepCall
from veltrix.store.journal import FailedAttempt, JournalEntry

if TYPE_CHECKING:
    from veltrix.pipeline.execution import Execution

_decode = msgspec.json.Decoder().decode


class StepTimeout(BaseException):
    """A step exceeded its limit. No Exception: an author's `except Exception` must not eat it."""


class JournalMismatch(BaseException):
    """The code asks for something else than the journal holds at this position."""


class Limits(msgspec.Struct, frozen=True):
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


class PendingStep:
    """A step that a run has asked for, at its position.

    `given` is when it was handed over to be run, `started` when the attempt began; 0 until then.
    `attempt` counts what began, crashes too; `tries` what counts against its retries. `limit_s` is
    less than that of the step where the run's own limit is nearer.
    """

    __slots__ = (
        "arguments",
        "attempt",
        "call",
        "digest",
        "execution",
        "frame",
        "given",
        "limit_s",
        "position",
        "started",
        "tries",
    )

    def __init__(
        self,
        execution: "Execution",
        frame: "Frame",
        call: StepCall,
        position: str,
        digest: bytes | None,
        encoded: bytes | None,
    ) -> None:
        self.execution, self.frame, self.call, self.position = execution, frame, call, position
        self.digest = digest
        self.arguments = arguments_text(encoded, execution.limits.arguments_bytes_max)
        failed = execution.failures.get(position)
        self.attempt = failed.count + 1 if failed else 1
        self.tries = self.attempt - failed.crashes if failed else 1
        own_s = call.step.timeout_s
        self.limit_s = execution.limits.step_timeout_s if own_s is None else own_s
        self.given = self.started = 0.0

    def again(self) -> "PendingStep":
        """The attempt after this one."""
        step = copy(self)
        step.attempt, step.tries = self.attempt + 1, self.tries + 1
        step.given = step.started = 0.0
        return step

    def mark(self, evidence: JournalEntry | FailedAttempt) -> None:
        """Say when the attempt that ends now began, and with what arguments."""
        evidence.arguments = self.arguments
        if self.started:
            evidence.began = self.started
            took_s = self.execution.limits.monotonic() - self.started
            evidence.took_ms = int(took_s * 1000 + 0.5)


class Frame:
    """A coroutine of the run: the workflow itself, or a branch of a `gather`.

    What its code sets in `context` is seen by its own steps and branches, as with asyncio's tasks,
    and by no other run.
    """

    __slots__ = (
        "asked",
        "branches",
        "context",
        "coroutine",
        "errors",
        "execution",
        "index",
        "is_errors_returned",
        "keys",
        "parent",
        "prefix",
        "results",
    )

    def __init__(
        self,
        execution: "Execution",
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        prefix: str = "",
        parent: "Frame | None" = None,
        index: int = 0,
    ) -> None:
        self.execution, self.coroutine, self.prefix = execution, coroutine, prefix
        self.context = context
        self.parent, self.index = parent, index
        self.asked = self.keys = 0
        self.branches = 0
        self.results: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.is_errors_returned = False

    def next_position(self) -> str:
        """The path of the next request: this frame's prefix and its own count."""
        self.asked += 1
        return f"{self.prefix}{self.asked}"

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
