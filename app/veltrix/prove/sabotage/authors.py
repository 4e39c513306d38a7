"""Sabotage of what authors rely on: clean-ups, values, limits, contexts, attempts, idle hands."""

import importlib
from contextlib import suppress
from contextvars import copy_context
from functools import wraps
from typing import Any

from veltrix.prove.sabotage.swaps import Saboteur, nothing, replace


def clean_ups_run_when_let_go() -> None:
    """A run that sleeps or goes elsewhere is closed as Python closes coroutines."""
    flow: Any = importlib.import_module("veltrix.authoring.flow")

    def closing(_abandon: Any) -> Any:
        def close(coroutines: Any) -> None:
            was, flow.here.is_engine = flow.here.is_engine, False
            flow._Process.is_worker = False  # noqa: SLF001 - that is the sabotage
            for coroutine in coroutines:
                with suppress(BaseException):
                    coroutine.close()
            flow.here.is_engine = was
            flow._Process.is_worker = True  # noqa: SLF001

        return close

    replace("veltrix.pipeline.execute.coroutines.execution", "abandon", closing)


def values_as_they_were_returned() -> None:
    """A workflow is given what a step returned, not what the journal makes of it."""
    replace(
        "veltrix.authoring.encoding", "Codec.output", lambda _: lambda _self, value, _text: value
    )


def arguments_as_they_are() -> None:
    """A step is given the workflow's own objects."""
    replace(
        "veltrix.pipeline.execute.step_calls",
        "given",
        lambda _: lambda arguments, keywords: (arguments, keywords),
    )


def digest_by_hash_order() -> None:
    """What a step is called with is told by something that only this process has."""

    def own(write_ordered: Any) -> Any:
        return lambda value: write_ordered(value) + str(hash("prove")).encode()

    replace("veltrix.authoring.encoding", "write_ordered", own)


def no_gate_before_steps() -> None:
    """A step that was given to be run begins, whatever has become of its run."""
    replace(
        "veltrix.pipeline.execute.coroutines.execution", "Execution.may_begin", nothing(result=True)
    )


def limit_forgotten_in_sleep() -> None:
    """The limit of a workflow counts while it runs, not while it waits."""
    replace(
        "veltrix.pipeline.execute.coroutines.execution", "Execution.is_late", nothing(result=False)
    )


def one_context_for_all() -> None:
    """All runs of a child share one context."""
    shared = copy_context()
    replace("veltrix.pipeline.execute.coroutines.moves", "fresh", lambda _: lambda: shared)


def attempts_forgotten() -> None:
    """What failed is tried again, and nobody keeps that it failed."""

    def forgetting(note: Any) -> Any:
        @wraps(note)
        def noted(execution: Any, failed: Any) -> None:
            if not failed.position:
                note(execution, failed)

        return noted

    replace("veltrix.pipeline.execute.coroutines.execution", "Execution.note", forgetting)


def savepoint_left_out() -> None:
    """A step that fails beside others is given up, and what it did is committed with theirs."""

    def kept(_fail: Any) -> Any:
        def keep(_self: Any, step: Any, session: Any, error: BaseException) -> Any:
            session.close()
            return step, None, "", error

        return keep

    replace("veltrix.pipeline.execute.transactional.together", "Together._fail", kept)


def busy_hands_keep() -> None:
    """A worker whose children are all busy keeps what waits, and takes more."""
    replace("veltrix.worker.parent.intake", "Intake.is_stuck", nothing(result=False))


SABOTAGES: dict[str, Saboteur] = {
    one.__name__: one
    for one in (
        clean_ups_run_when_let_go,
        values_as_they_were_returned,
        arguments_as_they_are,
        digest_by_hash_order,
        no_gate_before_steps,
        limit_forgotten_in_sleep,
        one_context_for_all,
        attempts_forgotten,
        savepoint_left_out,
        busy_hands_keep,
    )
}
