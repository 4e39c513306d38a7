"""Why an operation was not done, as the problem that says so: for the api and the console alike."""

from collections.abc import Callable
from typing import Any

import msgspec

from veltrix.operations.failures.triage import NotMoved, NoVersion
from veltrix.operations.replays.rules import ReplayRefused
from veltrix.operations.retention.rules import PolicyRefused
from veltrix.operations.runs.bulk import NotDone
from veltrix.web.problems import Problem


def no_such_run(run_id: str) -> Problem:
    """404: nobody started it."""
    return Problem("not-found", f"there is no run {run_id!r}")


def not_replayed(run_id: str, state: str | None, why: str | None) -> Problem:
    """The Problem that says why a run was not replayed: `why`, or the state it has by now."""
    slug = "replayed-too-often" if why else "wrong-state"
    return _not_now(run_id, state, slug, why or "only a failed run can be replayed")


def not_cancelled(run_id: str, state: str | None) -> Problem:
    """The Problem that says why a run was not cancelled."""
    return _not_now(run_id, state, "wrong-state", "only an open run can be cancelled")


def _not_now(run_id: str, state: str | None, slug: str, rule: str) -> Problem:
    if state is None:
        return no_such_run(run_id)
    return Problem(slug, f"run {run_id} is {state}: {rule}", state=state)


def refusing(call: Callable[[], Any]) -> Any:
    """What the call gives; its refusal is a Problem."""
    try:
        return call()
    except ReplayRefused as refusal:
        raise problem_of_replay(refusal) from None


def problem_of_replay(refusal: ReplayRefused) -> Problem:
    """The Problem that says why nothing was done."""
    return Problem(refusal.slug, str(refusal), **refusal.members)


def problem_of_bulk(answer: NotDone) -> Problem:
    """The Problem that says why nothing was done, and names runs that are the reason."""
    members: dict[str, Any] = {"runs": [msgspec.to_builtins(run) for run in answer.runs]}
    return Problem(answer.slug, answer.detail, **members)


def no_such_group(group_id: str) -> Problem:
    """404."""
    return Problem("not-found", f"there is no failure group {group_id!r}")


def problem_of_group(answer: NotMoved) -> Problem:
    """The Problem that says why nothing was done to a group."""
    if answer.state is None:
        return no_such_group(answer.id)
    if isinstance(answer, NoVersion):
        return Problem(
            "no-version", str(answer), kind=answer.kind, state=answer.state, by=answer.by
        )
    by = f" by {answer.by}" if answer.by else ""
    detail = f"group {answer.id} is {answer.state} already{by}; nothing was done"
    return Problem("wrong-state", detail, state=answer.state, by=answer.by)


def problem_of_policy(refused: PolicyRefused) -> Problem:
    """400: no such policy of retention can be; none was set."""
    return Problem("invalid-policy", str(refused))
