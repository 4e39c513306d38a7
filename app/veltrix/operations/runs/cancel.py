"""Cancel: an operator's or caller's request to end runs without an outcome."""

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, Engine

from veltrix.access.audit import Audited, append
from veltrix.domain.states import RunState
from veltrix.operations.runs.action_rows import MovedRun, sorted_ids, states_of
from veltrix.operations.runs.action_rows import cancel as cancel_rows
from veltrix.store.transactions import after_commit, retry_transient, transaction
from veltrix.telemetry import logger

log = logger("cancel")


class Cancelled(msgspec.Struct, frozen=True):
    """The run is cancelled: no worker held it, and none will begin it."""

    run_id: str


class CancelRequested(msgspec.Struct, frozen=True):
    """A worker holds the run, or is about to; it ends before the next step, or settles by then."""

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

    def once() -> list[Cancelled | CancelRequested | NotCancelled]:
        with transaction(engine) as tx:
            moved = cancel_rows(tx, ids, reason=reason, author=author)
            states = states_of(tx, ids) if len(moved) < len(ids) else {}
            _audit(tx, [*ids, *strange], moved, reason, author)
            after_commit(tx, lambda: tell(moved, author))
        done = {run.run_id: _answer(run) for run in moved}
        return [
            done.get(id_) or NotCancelled(id_, states.get(id_)) for id_ in sorted(ids + strange)
        ]

    return retry_transient(once)


def tell(moved: Sequence[MovedRun], author: str) -> None:
    """A log line for each run that a cancel moved."""
    for run in moved:
        log.info(
            "run.cancelled" if run.state == RunState.CANCELLED else "run.cancel_requested",
            run_id=run.run_id,
            event_id=run.event_id,
            workflow=run.workflow,
            author=author,
        )


def _answer(run: MovedRun) -> Cancelled | CancelRequested:
    is_settled = run.state == RunState.CANCELLED
    return Cancelled(run.run_id) if is_settled else CancelRequested(run.run_id)


def _audit(
    tx: Connection, asked: Sequence[str], moved: Sequence[MovedRun], reason: str, author: str
) -> None:
    requested = sum(run.state != RunState.CANCELLED for run in moved)
    row = Audited(
        author=author,
        action="run.cancel",
        reason=reason,
        target="run",
        target_id=asked[0] if len(asked) == 1 else None,
        request={"ids": list(asked)},
        run_ids=[run.run_id for run in moved],
        result={
            "runs": len(moved) - requested,
            "requested": requested,
            "not_cancelled": len(asked) - len(moved),
        },
        is_refused=not moved,
    )
    append(tx, [row])
