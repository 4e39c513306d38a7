"""Cancel: an operator's or caller's request to end runs without an outcome."""

from collections.abc import Iterable

import msgspec
from sqlalchemy import Engine

from app.domain.states import RunState
from app.store.actions import cancel as cancel_rows
from app.store.actions import sorted_ids, states_of
from app.store.transactions import open_autocommit, retry_transient
from app.telemetry import logger

log = logger("cancel")


class Cancelled(msgspec.Struct, frozen=True):
    """The run is cancelled: no worker held it, and none will begin it."""

    run_id: str


class CancelRequested(msgspec.Struct, frozen=True):
    """A worker holds the run and ends it before its next step; until then it may still settle."""

    run_id: str


class NotCancelled(msgspec.Struct, frozen=True):
    """The run was settled before, in this state; None: there is no such run."""

    run_id: str
    state: str | None


def cancel(
    engine: Engine, run_ids: Iterable[str], reason: str, author: str
) -> list[Cancelled | CancelRequested | NotCancelled]:
    """Every open run of the list is cancelled, at once or before its next step; by id.

    Up to 1,000 runs; ValueError beyond.
    """
    ids, strange = sorted_ids(run_ids)
    with open_autocommit(engine) as tx:
        moved = retry_transient(lambda: cancel_rows(tx, ids, reason=reason, author=author))
        states = states_of(tx, ids) if len(moved) < len(ids) else {}
    answers: dict[str, Cancelled | CancelRequested] = {}
    for run in moved:
        is_settled = run.state == RunState.CANCELLED
        answers[run.run_id] = (Cancelled if is_settled else CancelRequested)(run.run_id)
        log.info(
            "run.cancelled" if is_settled else "run.cancel_requested",
            run_id=run.run_id,
            event_id=run.event_id,
            workflow=run.workflow,
            author=author,
        )
    return [answers.get(id_) or NotCancelled(id_, states.get(id_)) for id_ in sorted(ids + strange)]
