"""Where the code that runs is: in which run, and in which step of it."""

from contextvars import ContextVar
from typing import Any

import msgspec


class StepContext(msgspec.Struct):
    """What a step may know of its attempt. `idempotency_key` is the same for every attempt.

    `is_over`: the attempt has ended; what it left running is no part of it any more.
    """

    run_id: str
    workflow: str
    position: str
    attempt: int
    idempotency_key: str
    traceparent: str | None
    step: str = ""
    is_over: bool = False


step_context: ContextVar[StepContext | None] = ContextVar("step_context", default=None)
# What the code that runs belongs to: the claim of its run, for log lines.
run_here: ContextVar[Any] = ContextVar("run_here", default=None)


def log_facts() -> dict[str, Any]:
    """What a log line of the code that runs here says of its run and step; {} outside of runs."""
    claim, context = run_here.get(), step_context.get()
    if claim is None:
        return {}
    facts = {"run_id": claim.run_id, "event_id": claim.event_id, "workflow": claim.workflow}
    if context is not None:
        facts |= {"step": context.step, "position": context.position, "attempt": context.attempt}
    return facts
