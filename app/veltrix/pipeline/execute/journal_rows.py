"""The journal: finished steps, failed attempts and outcomes, written under a lease token.

The token is the fence (mechanics 2): a write first locks, in id order, the rows that still carry
it, in the same statement, and writes only those. A worker that lost its lease writes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.pipeline.execute.journal_statement import Row, parts_of, statement_of, values_of
from veltrix.pipeline.execute.lease_rows import Claim, Tokens
from veltrix.store.arrays import IntArray, TextArray, uuids
from veltrix.store.errors import Answer, answer_of
from veltrix.store.transactions import fetch


class JournalEntry(msgspec.Struct, gc=False):
    """A finished step (`kind` step), a sleep's end, or a recorded value, at its position."""

    run_id: str
    position: str
    kind: str
    name: str
    arguments_digest: bytes | None = None
    output: str | None = None  # JSON text
    error: str | None = None  # JSON text of {type, message}; set: the step failed for good
    attempts: int = 1
    age_s: float = 0.0  # since it was recorded, when it was read, by the database's clock
    began: float | None = None  # monotonic, of the attempt that ended it
    took_ms: int | None = None
    arguments: str | None = None  # JSON text, or the beginning of it


class FailedAttempt(msgspec.Struct, gc=False):
    """One attempt that raised or exceeded its limit. `position` "" is the workflow itself.

    `retry_delay_s` None: no further attempt follows.
    """

    run_id: str
    position: str
    step: str
    attempt: int
    type: str
    message: str
    traceback: str
    fingerprint: str
    retry_delay_s: float | None = None
    began: float | None = None  # monotonic
    took_ms: int | None = None
    arguments: str | None = None  # JSON text, or the beginning of it


class PastFailures(msgspec.Struct, gc=False):
    """The failed attempts at one position: how many, and how long ago by the database's clock.

    `crashes` of them ended with their worker's process: no fault of the code that is known, and so
    none of its retries.
    """

    count: int
    first_s: float
    last_s: float
    retry_delay_s: float | None
    crashes: int = 0


class Settlement(msgspec.Struct, gc=False, kw_only=True):
    """What becomes of a run now: settled, waiting for `wait_s`, or queued again (`wait_s` 0)."""

    run_id: str
    state: str
    wait_s: float | None = None
    outcome: str | None = None  # JSON text
    reason: str | None = None
    fingerprint: str | None = None
    failed_step: str | None = None
    key: str | None = None
    code_version: str | None = None
    handed_by: str | None = None  # the message of a run that came as claimed
    began: float | None = None  # monotonic, of such a run: when this worker took it up
    steps: str | None = None  # its whole journal, where that is kept with the run


class Past(msgspec.Struct):
    """What earlier attempts of a run left: finished entries and failed attempts, by position."""

    entries: dict[str, JournalEntry]
    failures: dict[str, PastFailures]


WRITE_BYTES_MAX = 8 * 2**20  # of outputs in one statement, unless one of them is larger
READ_BYTES_MAX = 8 * 2**20  # of outputs in one statement, about
_READ_ROWS_MAX = 5_000
_GROWTH_MAX = 8  # of a part beside the one before it: what comes next may be larger

# The lateral part reads a run's entries in the order of its index, and the outer one run after run
# in the order they are named: so a limit ends it early, and where it ended is known.
_PAST_ENTRIES = """
select j.run_id::text, j.position, j.kind, j.name, j.arguments_digest, j.output::text,
    j.error::text,
    j.attempts, extract(epoch from clock_timestamp() - j.recorded_at)::float8
from unnest(%(id)s::uuid[], %(generation)s, %(after)s) as k(id, generation, after)
cross join lateral (
    select * from journal j
    where j.run_id = k.id and j.generation = k.generation and j.position > k.after
    order by j.position limit %(rows_max)s
) j
limit %(rows_max)s
"""

# Attempts that found no matching code count until the run makes progress: what was held for one
# deploy has its time in the next.
_PAST_FAILURES = """
select f.run_id::text, f.position, count(*),
    extract(epoch from clock_timestamp() - min(f.failed_at))::float8,
    extract(epoch from clock_timestamp() - max(f.failed_at))::float8,
    (array_agg(f.retry_delay_s order by f.id desc))[1],
    count(*) filter (where f.is_crash)
from unnest(%(id)s::uuid[], %(generation)s) as k(id, generation)
cross join lateral (
    select * from failed_attempts f where f.run_id = k.id and f.generation = k.generation offset 0
) f
where f.position <> 'deploy' or not exists (
        select from journal j where j.run_id = k.id and j.generation = k.generation
            and j.recorded_at > f.failed_at)
    and not exists (
        select from failed_attempts o where o.run_id = k.id and o.generation = k.generation
            and o.position <> 'deploy' and o.failed_at > f.failed_at)
group by 1, 2
"""


def past(tx: Connection, claims: Sequence[Claim], bytes_max: int | None = None) -> dict[str, Past]:
    """By run: what the journal and the failed attempts of its current generation hold.

    Read in parts of about READ_BYTES_MAX, and smaller ones where the limit of a statement is met.
    With `bytes_max` only the first runs are in the answer, whose outputs are about as much: at
    least one. `tx` is in autocommit.
    """
    found = _past_entries(tx, claims, bytes_max)
    read = [c for c in claims if c.run_id in found]
    keys = {
        "id": TextArray([c.run_id for c in read]),
        "generation": IntArray([c.generation for c in read]),
    }
    for run_id, position, *failures in tx.exec_driver_sql(_PAST_FAILURES, keys):
        found[run_id].failures[position] = PastFailures(*failures)
    return found


def _past_entries(
    tx: Connection, claims: Sequence[Claim], bytes_max: int | None
) -> dict[str, Past]:
    found: dict[str, Past] = {}
    left, after = list(claims), ""
    rows_max, total = 32 + len(left) // 2, 0
    while left:
        try:
            rows = _read_entries(tx, left, after, rows_max)
        except DBAPIError as error:
            if answer_of(error) is not Answer.AGAIN or rows_max == 1:
                raise
            rows_max = max(1, rows_max // _GROWTH_MAX)
            continue
        size = 0
        for row in rows:
            entry = JournalEntry(*row)
            found.setdefault(entry.run_id, Past({}, {})).entries[entry.position] = entry
            size += len(entry.output or "")
        total += size
        if len(rows) < rows_max:
            break
        unread = [c.run_id for c in left].index(rows[-1][0])  # the runs before it are complete
        left, after = left[unread:], rows[-1][1]
        if bytes_max is not None and total > bytes_max and left[0] is not claims[0]:
            del found[left[0].run_id]
            return {c.run_id: found.get(c.run_id) or Past({}, {}) for c in claims[: -len(left)]}
        fitting = READ_BYTES_MAX * len(rows) // max(1, size)
        rows_max = max(1, min(fitting, rows_max * _GROWTH_MAX, _READ_ROWS_MAX))
    return {c.run_id: found.get(c.run_id) or Past({}, {}) for c in claims}


def _read_entries(
    tx: Connection, claims: Sequence[Claim], after: str, rows_max: int
) -> Sequence[Any]:
    """At most so many entries of these runs, of the first of them those behind `after`."""
    keys = {
        "id": TextArray([c.run_id for c in claims]),
        "generation": IntArray([c.generation for c in claims]),
        "after": TextArray([after] + [""] * (len(claims) - 1)),
        "rows_max": rows_max,
    }
    return tx.exec_driver_sql(_PAST_ENTRIES, keys).all()


def unheard(_database_s: float) -> None:
    """Nobody wants to know what time it is."""


def write(
    tx: Connection,
    tokens: Tokens,
    worker_id: str,
    entries: Sequence[JournalEntry],
    failed_attempts: Sequence[FailedAttempt],
    settlements: Sequence[Settlement],
    now: float | None = None,
    on_time: Callable[[float], object] = unheard,
) -> dict[str, bool]:
    """Journal and settle in one statement; {run id still held: is its cancel requested}.

    More than WRITE_BYTES_MAX of outputs go in statements of that size, the last of which settles:
    what PostgreSQL has to take at once is bounded, and who dies between two has lost nothing.
    `now` is monotonic, of the clock by which entries and attempts began; None: that is not told.
    `on_time` is told the database's time, in seconds since 1970, whenever it answers.
    Runs that are missing from the answer lost their lease: nothing was written for them. Every run
    named in any argument is checked. Raises what `transactions.is_bad_value` recognises if one
    value cannot be stored; nothing is written then.
    """
    held: dict[str, bool] = {}
    lost: set[str] = set()
    for part in _too_many(entries):
        found = _write(tx, tokens, worker_id, part, (), (), now, on_time)
        held |= found
        lost |= {entry.run_id for entry in part} - found.keys()
        entries = entries[len(part) :]
    held |= _write(tx, tokens, worker_id, entries, failed_attempts, settlements, now, on_time)
    return {run_id: held[run_id] for run_id in held.keys() - lost} if lost else held


def _too_many(entries: Sequence[JournalEntry]) -> Iterator[Sequence[JournalEntry]]:
    """The first entries, in parts of WRITE_BYTES_MAX, while more than that is left."""
    left = chars_of(entries)
    while left > WRITE_BYTES_MAX and len(entries) > 1:
        part = first_of(entries[:-1], WRITE_BYTES_MAX)
        left -= chars_of(part)
        yield part
        entries = entries[len(part) :]


def chars_of(entries: Iterable[JournalEntry]) -> int:
    """About how long entries are: their outputs, and what is kept of their arguments."""
    size = 0
    for entry in entries:
        size += len(entry.output or "") + len(entry.arguments or "")
    return size


def first_of(entries: Sequence[JournalEntry], bytes_max: int) -> Sequence[JournalEntry]:
    """The first entries, as many as `bytes_max` allows; at least one."""
    size = 0
    for index, entry in enumerate(entries):
        size += chars_of((entry,))
        if index and size > bytes_max:
            return entries[:index]
    return entries


def _write(
    tx: Connection,
    tokens: Tokens,
    worker_id: str,
    entries: Sequence[JournalEntry],
    failed_attempts: Sequence[FailedAttempt],
    settlements: Sequence[Settlement],
    now: float | None,
    on_time: Callable[[float], object],
) -> dict[str, bool]:
    rows = _rows(entries, failed_attempts, settlements)
    if not rows:
        return {}
    parts = parts_of(rows)
    values = values_of(rows, parts, now) | {
        "tokens": uuids(tokens),
        "worker_id": worker_id,
        "rows": len(rows),
    }
    ((cancelled, some, database_s),) = fetch(tx, statement_of(parts), values)
    on_time(database_s)
    # All of them are held, nearly always: then their ids are not sent back.
    held = dict.fromkeys((row[0] for row in rows) if some is None else some, False)
    for run_id in cancelled:
        held[run_id] = True
    return held


def _rows(
    entries: Sequence[JournalEntry],
    failed_attempts: Sequence[FailedAttempt],
    settlements: Sequence[Settlement],
) -> list[Row]:
    """The rows of a write, in the order of the runs' ids."""
    ends = {settlement.run_id: settlement for settlement in settlements}
    if not failed_attempts and not entries:  # as most lists are
        return [(run_id, None, None, ends[run_id]) for run_id in sorted(ends)]
    if not failed_attempts and len(entries) == len(ends):
        last = {entry.run_id: entry for entry in entries}
        if last.keys() == ends.keys():  # of each run a step, and its outcome
            return [(run_id, last[run_id], None, ends[run_id]) for run_id in sorted(ends)]
    of_run: dict[str, tuple[list[JournalEntry], list[FailedAttempt], list[Settlement]]] = {}
    for settlement in settlements:
        of_run[settlement.run_id] = ([], [], [settlement])
    for entry in entries:
        of_run.setdefault(entry.run_id, ([], [], []))[0].append(entry)
    for failed in failed_attempts:
        of_run.setdefault(failed.run_id, ([], [], []))[1].append(failed)
    return [
        (run_id, *row)
        for run_id in sorted(of_run)
        for row in zip_longest(*of_run[run_id], fillvalue=None)
    ]
