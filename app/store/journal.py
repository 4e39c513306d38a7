"""The journal: finished steps, failed attempts and outcomes, written under a lease token.

The token is the fence (mechanics 2): a write first locks, in id order, the rows that still carry
it, in the same statement, and writes only those. A worker that lost its lease writes nothing.
"""

from collections.abc import Sequence
from itertools import zip_longest

import msgspec
from sqlalchemy import Connection

from app.store.arrays import IntArray, TextArray
from app.store.leases import Claim
from app.store.transactions import fetch
from app.store.write_statement import Row, parts_of, statement_of, values_of


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


class Failures(msgspec.Struct, gc=False):
    """The failed attempts at one position: how many, and how long ago by the database's clock."""

    count: int
    first_s: float
    last_s: float
    retry_delay_s: float | None


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


class Past(msgspec.Struct):
    """What earlier attempts of a run left: finished entries and failed attempts, by position."""

    entries: dict[str, JournalEntry]
    failures: dict[str, Failures]


_PAST_ENTRIES = """
select j.run_id::text, j.position, j.kind, j.name, j.arguments_digest, j.output::text,
    j.error::text,
    j.attempts, extract(epoch from clock_timestamp() - j.recorded_at)::float8
from unnest(%(id)s::uuid[], %(generation)s) as k(id, generation)
join journal j on j.run_id = k.id and j.generation = k.generation
"""

_PAST_FAILURES = """
select f.run_id::text, f.position, count(*),
    extract(epoch from clock_timestamp() - min(f.failed_at))::float8,
    extract(epoch from clock_timestamp() - max(f.failed_at))::float8,
    (array_agg(f.retry_delay_s order by f.id desc))[1]
from unnest(%(id)s::uuid[], %(generation)s) as k(id, generation)
join failed_attempts f on f.run_id = k.id and f.generation = k.generation
group by 1, 2
"""


def past(tx: Connection, claims: Sequence[Claim]) -> dict[str, Past]:
    """By run: what the journal and the failed attempts of its current generation hold."""
    keys = {
        "id": TextArray([c.run_id for c in claims]),
        "generation": IntArray([c.generation for c in claims]),
    }
    found = {c.run_id: Past({}, {}) for c in claims}
    for row in tx.exec_driver_sql(_PAST_ENTRIES, keys):
        entry = JournalEntry(*row)
        found[entry.run_id].entries[entry.position] = entry
    for run_id, position, *failures in tx.exec_driver_sql(_PAST_FAILURES, keys):
        found[run_id].failures[position] = Failures(*failures)
    return found


def write(
    tx: Connection,
    token: str,
    worker_id: str,
    entries: Sequence[JournalEntry],
    failed_attempts: Sequence[FailedAttempt],
    settlements: Sequence[Settlement],
) -> dict[str, bool]:
    """Journal and settle in one statement; {run id still held: is its cancel requested}.

    Runs that are missing from the answer lost their lease: nothing was written for them. Every run
    named in any argument is checked. Raises what `transactions.is_bad_value` recognises if one
    value cannot be stored; nothing is written then.
    """
    rows = _rows(entries, failed_attempts, settlements)
    if not rows:
        return {}
    parts = parts_of(rows)
    values = values_of(rows, parts) | {"token": token, "worker_id": worker_id}
    return dict(fetch(tx, statement_of(parts), values))


def _rows(
    entries: Sequence[JournalEntry],
    failed_attempts: Sequence[FailedAttempt],
    settlements: Sequence[Settlement],
) -> list[Row]:
    """The rows of a write, in the order of the runs' ids."""
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
