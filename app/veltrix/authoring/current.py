"""Where the code of an author is: in which run, and in which step of it."""

import logging

import msgspec

from veltrix.domain.context import run_here, step_context


class Current(msgspec.Struct, frozen=True):
    """Of a run; all None outside of runs, as in unit tests of plain code.

    `step` and `attempt` (the first is 1) are None in the workflow's own code, which is run again
    for each of its steps: what a workflow sees must not depend on how often. The lines of `log`
    carry all of it.
    """

    run_id: str | None
    event_id: str | None
    workflow: str | None
    step: str | None
    attempt: int | None
    log: logging.Logger


def current() -> Current:
    """Where the code is that asks: in a step, in what it calls and in threads it starts, too.

    Raises nothing.
    """
    claim, context = run_here.get(), step_context.get()
    if claim is None:
        return Current(None, None, None, None, None, logging.getLogger("veltrix.workflows"))
    return Current(
        run_id=claim.run_id,
        event_id=claim.event_id,
        workflow=claim.workflow,
        step=None if context is None else context.step,
        attempt=None if context is None else context.attempt,
        log=logging.getLogger(f"veltrix.workflows.{claim.workflow}"),
    )
