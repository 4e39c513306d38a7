"""Settle: write finished steps, failed attempts and outcomes of a list, in one statement.

Promise 3: only runs that still carry the token are written. Promise 1: what cannot be written now
because the database cannot take it is kept in hand and written when it can. A write is bounded in
bytes: what is more goes in parts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix import telemetry
from veltrix.domain.states import Reason, RunState
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.coroutines import endings
from veltrix.pipeline.execute.coroutines.execution import Execution
from veltrix.pipeline.execute.failure_lines import say_failures
from veltrix.pipeline.execute.inline_journal import inline_of, may_be_inline
from veltrix.pipeline.execute.journal_rows import JournalEntry
from veltrix.pipeline.execute.lease_rows import Tokens
from veltrix.store.errors import is_bad_value, is_lost
from veltrix.store.transactions import Link

_TRIES_MAX = 3  # of a write that may be too much, before it is halved
_SMALL_BYTES = 64 * 2**10  # too little to be why PostgreSQL hangs up


def settle(
    link: Link,
    token: Tokens,
    worker_id: str,
    executions: Sequence[Execution],
    bytes_max: int = journal_rows.WRITE_BYTES_MAX,
) -> list[str]:
    """Write what these executions have to write; the ids of those whose lease was lost.

    Waits for the database as long as it takes. A value that cannot be stored fails its run only.
    What ends its connection without a word each time is halved, and what is one value then cannot
    be stored either.
    """
    lost: list[str] = []
    for part in _parts(executions, bytes_max):
        lost += _settle(link, token, worker_id, part, bytes_max)
    return lost


def _parts(executions: Sequence[Execution], bytes_max: int) -> Iterator[list[Execution]]:
    part: list[Execution] = []
    size = 0
    for execution in executions:
        more = size_of(execution)
        if part and size + more > bytes_max:
            yield part
            part, size = [], 0
        part.append(execution)
        size += more
    if part:
        yield part


def size_of(execution: Execution) -> int:
    """About how many characters of outputs and arguments an execution has to write."""
    size = journal_rows.chars_of(execution.unwritten)
    settlement = execution.settlement
    if settlement is not None and settlement.outcome is not None:
        size += len(settlement.outcome)
    return size


def _settle(
    link: Link, token: Tokens, worker_id: str, executions: list[Execution], bytes_max: int
) -> list[str]:
    if len(executions) == 1 and size_of(executions[0]) > bytes_max:
        lost = _write_entries(link, token, worker_id, executions[0], bytes_max)
        if lost:
            return lost
    is_divisible = len(executions) > 1 or size_of(executions[0]) > _SMALL_BYTES
    try:
        held = link.call(
            lambda tx: write(tx, token, worker_id, executions),
            on_return=_drop_written(executions),
            tries_max=_TRIES_MAX if is_divisible else None,
        )
    except (DBAPIError, UnicodeError) as error:
        return _halve(link, token, worker_id, executions, error, bytes_max)
    return mark_written(executions, held)


def _write_entries(
    link: Link, token: Tokens, worker_id: str, execution: Execution, bytes_max: int
) -> list[str]:
    """Journal the steps of a run in parts, but the last one; its id if its lease was lost.

    What cannot be written is left to the last write, with what comes after it.
    """
    run_id = execution.claim.run_id

    def next_part(tx: Connection) -> tuple[Sequence[JournalEntry], bool]:
        part = journal_rows.first_of(execution.unwritten[:-1], bytes_max)
        now = execution.limits.monotonic()
        _announce(tx, token, worker_id, [execution] if part else [])
        return part, not part or run_id in journal_rows.write(
            tx, token, worker_id, part, [], [], now
        )

    while size_of(execution) > bytes_max and len(execution.unwritten) > 1:
        try:
            part, is_held = link.call(
                next_part, on_return=_drop_written([execution]), tries_max=_TRIES_MAX
            )
        except (DBAPIError, UnicodeError):
            return []
        if not is_held:
            execution.close()
            return [run_id]
        execution.has_journal = True
        del execution.unwritten[: len(part)]
    return []


def write(
    tx: Connection,
    token: Tokens,
    worker_id: str,
    executions: Sequence[Execution],
    *,
    is_by_link: bool = True,
) -> dict[str, bool]:
    """One statement for all of them; {run id still held: is its cancel requested}.

    One with nothing to write counts as held: all of its steps were written before an answer was
    lost. Whether its lease is, its next write finds out. `is_by_link`: by the connection whose
    server's time is believed.
    """
    _announce(tx, token, worker_id, [e for e in executions if e.settlement is None and e.has_news])
    got_on = [e.claim.run_id for e in executions if e.claim.alone and e.unwritten]
    if got_on:  # whatever killed children before, it got past that
        # Before the write, which may not be done again for an error of what follows it.
        lease_rows.forgive(tx, token, got_on)
    if not executions:
        return {}
    limits = executions[0].limits
    now = limits.monotonic()
    return {e.claim.run_id: False for e in executions if not e.has_news} | journal_rows.write(
        tx,
        token,
        worker_id,
        list(chain.from_iterable(_rows_of(e, now) for e in executions)),
        list(chain.from_iterable(e.failed_attempts for e in executions)),
        [e.settlement for e in executions if e.settlement is not None],
        now,
        partial(limits.on_time, now) if is_by_link else journal_rows.unheard,
    )


def _rows_of(execution: Execution, now: float) -> list[JournalEntry]:
    """What is to be written as rows: nothing of a run whose whole journal goes with its end."""
    entries, settlement = execution.unwritten, execution.settlement
    if (
        not entries
        or settlement is None
        or settlement.state != RunState.SUCCEEDED
        or execution.has_journal
        or not may_be_inline(entries)
    ):
        return entries
    settlement.steps = inline_of(entries, now)
    return []


def _announce(
    tx: Connection, token: Tokens, worker_id: str, executions: Sequence[Execution]
) -> None:
    """Before anything but the end of a run is written, its row says who runs it."""
    quiet = [e for e in executions if not e.is_announced]
    if quiet:
        limits = quiet[0].limits
        handed = handed_of(quiet, limits.monotonic())
        announced = lease_rows.announce(tx, token, worker_id, handed, limits.hold_s)
        for execution in quiet:
            execution.is_announced = execution.claim.run_id in announced


def handed_of(executions: Iterable[Execution], now: float) -> list[tuple[str, str, float]]:
    """Of those that came as claimed: run, message, and seconds since it was taken up."""
    return [
        (e.claim.run_id, e.claim.handed_by, now - e.claimed)
        for e in executions
        if e.claim.handed_by is not None
    ]


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
        if execution.claim.alone and execution.unwritten:
            execution.claim.alone, execution.claim.crashes = False, 0
        for failed in execution.failed_attempts:
            telemetry.failed_attempts.labels(execution.claim.workflow, failed.step).inc()
        say_failures(execution)
        execution.has_journal = execution.has_journal or bool(execution.unwritten)
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
        past = journal_rows.past(tx, [e.claim for e in open_])
        for execution in open_:
            known = past[execution.claim.run_id]
            execution.has_journal = execution.has_journal or bool(known.entries)
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
    token: Tokens,
    worker_id: str,
    executions: list[Execution],
    error: Exception,
    bytes_max: int,
) -> list[str]:
    if len(executions) > 1:
        middle = len(executions) // 2
        return settle(link, token, worker_id, executions[:middle]) + settle(
            link, token, worker_id, executions[middle:]
        )
    (execution,) = executions
    if not is_bad_value(error):
        size = size_of(execution)
        if len(execution.unwritten) > 1 and min(size, bytes_max) > _SMALL_BYTES:
            return settle(link, token, worker_id, executions, min(size, bytes_max) // 2)
        if not is_lost(error) or size <= _SMALL_BYTES:
            return _hold(link, token, worker_id, execution)
    if execution.settlement is not None and execution.settlement.reason == Reason.UNSTORABLE:
        raise error  # not even the reason can be written: nothing of the run's own is left in it
    execution.end(endings.unwritable(execution, error))
    return settle(link, token, worker_id, executions)


def _hold(link: Link, token: Tokens, worker_id: str, execution: Execution) -> list[str]:
    """It is not the value that is wrong: write it when the database can."""
    held = link.call(
        lambda tx: write(tx, token, worker_id, [execution]), on_return=_drop_written([execution])
    )
    return mark_written([execution], held)
