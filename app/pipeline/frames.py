"""The parts of an execution: its coroutines, the steps they ask for, and what it must respect."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from app.domain.encoding import encode
from app.domain.flow import StepCall
from app.store.journal import JournalEntry

if TYPE_CHECKING:
    from app.pipeline.execution import Execution

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


class PendingStep:
    """A step that a run has asked for, at its position. `started` is 0 until an attempt runs."""

    __slots__ = (
        "attempt",
        "call",
        "digest",
        "execution",
        "frame",
        "limit_s",
        "position",
        "started",
    )

    def __init__(
        self,
        execution: "Execution",
        frame: "Frame",
        call: StepCall,
        position: str,
        digest: bytes | None,
    ) -> None:
        self.execution, self.frame, self.call, self.position = execution, frame, call, position
        self.digest = digest
        self.attempt = execution.failed_count(position) + 1
        self.limit_s = 0.0
        self.started = 0.0


class Frame:
    """A coroutine of the run: the workflow itself, or a branch of a `gather`."""

    __slots__ = (
        "asked",
        "branches",
        "coroutine",
        "execution",
        "index",
        "is_errors_returned",
        "parent",
        "prefix",
        "results",
    )

    def __init__(
        self,
        execution: "Execution",
        coroutine: Coroutine[Any, Any, Any],
        prefix: str = "",
        parent: "Frame | None" = None,
        index: int = 0,
    ) -> None:
        self.execution, self.coroutine, self.prefix = execution, coroutine, prefix
        self.parent, self.index = parent, index
        self.asked = 0
        self.branches = 0
        self.results: list[Any] = []
        self.is_errors_returned = False

    def next_position(self) -> str:
        """The path of the next request: this frame's prefix and its own count."""
        self.asked += 1
        return f"{self.prefix}{self.asked}"

    def record(self, name: str, make: Callable[[], Any]) -> Any:
        """The value recorded at this position, or the one that `make` gives, from now on."""
        execution, position = self.execution, self.next_position()
        entry = execution.take_entry(position, "value", name)
        if entry is not None:
            return _decode(entry.output or "null")
        value = make()
        text = encode(value, execution.limits.output_bytes_max)
        execution.unwritten.append(
            JournalEntry(execution.claim.run_id, position, "value", name, None, text)
        )
        return value
