"""Settle: write finished steps, failed attempts and outcomes of a list, in one statement.

Promise 3: only runs that still carry the token are written. Promise 1: what cannot be written now
because the database is away is kept in hand and written when it is back.
"""

from collections.abc import Callable, Sequence
from itertools import chain

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from app import telemetry
from app.domain.states import Reason
from app.pipeline import failures
from app.pipeline.execution import Execution
from app.store import journal
from app.store.transactions import Link, is_bad_value, is_transient

_TRIES_MAX = 20


def settle(link: Link, token: str, worker_id: str, executions: Sequence[Execution]) -> list[str]:
    """Write what these executions have to write; the ids of those whose lease was lost.

    Waits for the database as long as it takes. A value that cannot be stored fails its run only.
    """
    rest = list(executions)
    for attempt in range(_TRIES_MAX):
        try:
            held = link.call(
                lambda tx: write(tx, token, worker_id, rest), on_return=_drop_written(rest)
            )
        except DBAPIError as error:
            if is_transient(error) and attempt < _TRIES_MAX - 1:
                continue
            if not is_bad_value(error):
                raise
            return _halve(link, token, worker_id, rest, error)
        except UnicodeError as error:
            return _halve(link, token, worker_id, rest, error)
        return mark_written(rest, held)
    raise AssertionError("unreachable")


def write(
    tx: Connection, token: str, worker_id: str, executions: Sequence[Execution]
) -> dict[str, bool]:
    """One statement for all of them; {run id still held: is its cancel requested}.

    One with nothing to write counts as held: all of its steps were written before an answer was
    lost. Whether its lease is, its next write finds out.
    """
    idle = {e.claim.run_id: False for e in executions if not e.has_news}
    return idle | journal.write(
        tx,
        token,
        worker_id,
        list(chain.from_iterable(e.unwritten for e in executions)),
        list(chain.from_iterable(e.failed_attempts for e in executions)),
        [e.settlement for e in executions if e.settlement is not None],
    )


def mark_written(executions: Sequence[Execution], held: dict[str, bool]) -> list[str]:
    """Note what is durable now; the ids of the runs that somebody else holds."""
    lost: list[str] = []
    for execution in executions:
        run_id = execution.claim.run_id
        is_cancel_requested = held.get(run_id)
        if is_cancel_requested is None:
            lost.append(run_id)
            execution.close()
            continue
        for failed in execution.failed_attempts:
            telemetry.failed_attempts.labels(execution.claim.workflow, failed.step).inc()
        execution.unwritten, execution.failed_attempts = [], []
        if execution.settlement is not None:
            execution.close()
        elif is_cancel_requested:
            execution.is_cancel_requested = True
    return lost


def _drop_written(executions: Sequence[Execution]) -> Callable[[Connection], None]:
    """After a lost connection the last write may have been committed: keep only what is missing."""

    def drop(tx: Connection) -> None:
        open_ = [e for e in executions if not e.is_over]
        past = journal.past(tx, [e.claim for e in open_])
        for execution in open_:
            known = past[execution.claim.run_id]
            execution.unwritten = [
                entry for entry in execution.unwritten if entry.position not in known.entries
            ]
            execution.failed_attempts = [
                failed
                for failed in execution.failed_attempts
                if known.failures.get(failed.position) is None
                or known.failures[failed.position].count < failed.attempt
            ]

    return drop


def _halve(
    link: Link,
    token: str,
    worker_id: str,
    executions: list[Execution],
    error: Exception,
) -> list[str]:
    if len(executions) > 1:
        middle = len(executions) // 2
        return settle(link, token, worker_id, executions[:middle]) + settle(
            link, token, worker_id, executions[middle:]
        )
    (execution,) = executions
    if execution.settlement is not None and execution.settlement.reason == Reason.UNSTORABLE:
        raise error  # not even the reason can be written: nothing of the run's own is left in it
    execution.unwritten, execution.failed_attempts = [], []
    cause = ValueError(f"its journal cannot be written: {type(error).__name__}")
    failures.fail_unstorable(execution, "", "", execution.failed_count("") + 1, cause)
    execution.key = None
    return settle(link, token, worker_id, executions)
