"""The journal: finished steps, failed attempts and outcomes, written under a lease token.

The token is the fence (mechanics 2): a write first locks, in id order, the rows that still carry
it, in the same statement, and writes only those. A worker that lost its lease writes nothing.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection

from app.store.arrays import BytesArray, FloatArray, IntArray, PgArray, TextArray
from app.store.leases import Claim
from app.store.transactions import fetch

_Fields = dict[str, tuple[type[PgArray], Callable[[Any], Any]]]


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

# A list is one set of rows: a run's i-th entry beside its i-th failed attempt and, in the first of
# them, its settlement. So each run is found once, by its key, and nothing is joined to what was
# found. (Joined, the planner took 250 rows for one and looped: five times the cost.) Rows without a
# settlement are locked first, in the order of the ids, then the settled ones by their update, in
# that order too. A run that would go on waiting, but whose cancel was requested meanwhile, is
# cancelled.
_WRITE = """
with input as materialized (
    select * from unnest(%(id)s::uuid[],
        %(e_position)s, %(e_kind)s, %(e_name)s, %(e_digest)s, %(e_output)s::json[],
            %(e_error)s::json[], %(e_attempts)s,
        %(f_position)s, %(f_step)s, %(f_attempt)s, %(f_type)s, %(f_message)s, %(f_traceback)s,
            %(f_fingerprint)s, %(f_retry_delay_s)s,
        %(s_state)s, %(s_wait_ms)s, %(s_outcome)s::json[], %(s_reason)s, %(s_fingerprint)s,
            %(s_failed_step)s, %(s_key)s, %(s_code_version)s
    ) as u(id, e_position, e_kind, e_name, e_digest, e_output, e_error, e_attempts,
        f_position, f_step, f_attempt, f_type, f_message, f_traceback, f_fingerprint,
            f_retry_delay_s,
        s_state, s_wait_ms, s_outcome, s_reason, s_fingerprint, s_failed_step, s_key,
            s_code_version)
), locked as materialized (
    select u.*, r.generation, r.cancel_requested_at
    from input u join runs r on r.id = u.id
    where u.s_state is null and r.lease_token = %(token)s
    order by r.id for no key update of r
), moved as (
    update runs r set lease_token = null,
        state = case when u.s_wait_ms is not null and r.cancel_requested_at is not null
            then 'cancelled' else u.s_state end,
        due_at = case when r.cancel_requested_at is null
            then now() + u.s_wait_ms / 1000.0 * interval '1 second' end,
        settled_at = case when u.s_wait_ms is null or r.cancel_requested_at is not null
            then now() end,
        outcome = u.s_outcome, fingerprint = u.s_fingerprint,
        reason = case when u.s_wait_ms is not null and r.cancel_requested_at is not null
            then 'requested' else u.s_reason end,
        failed_step = u.s_failed_step, key = coalesce(u.s_key, r.key),
        code_version = coalesce(u.s_code_version, r.code_version)
    from (select * from input where s_state is not null order by id) u
    where r.id = u.id and r.lease_token = %(token)s and (select count(*) from locked) >= 0
    returning u.*, r.generation, r.cancel_requested_at, r.state, r.account_id, r.minute
), held as (
    select {held} from locked union all select {held} from moved
), journalled as (
    insert into journal (run_id, generation, position, kind, name, arguments_digest, output, error,
        attempts)
    select id, generation, e_position, e_kind, e_name, e_digest, e_output, e_error, e_attempts
    from held where e_kind is not null
), noted as (
    insert into failed_attempts (run_id, generation, position, step, attempt, type, message,
        traceback, fingerprint, retry_delay_s, worker_id)
    select id, generation, f_position, f_step, f_attempt, f_type, f_message, f_traceback,
        f_fingerprint, f_retry_delay_s, %(worker_id)s
    from held where f_type is not null
), counted as (
    insert into counter_deltas (account_id, minute, succeeded, failed, cancelled)
    select account_id, minute, count(*) filter (where state = 'succeeded'),
        count(*) filter (where state = 'failed'), count(*) filter (where state = 'cancelled')
    from moved where state in ('succeeded', 'failed', 'cancelled')
    group by account_id, minute
)
select id::text, cancel_requested_at is not null from held
""".replace(
    "{held}",
    "id, generation, cancel_requested_at,"
    " e_position, e_kind, e_name, e_digest, e_output, e_error, e_attempts, f_position, f_step,"
    " f_attempt, f_type, f_message, f_traceback, f_fingerprint, f_retry_delay_s",
)

_ENTRY: _Fields = {
    "position": (TextArray, attrgetter("position")),
    "kind": (TextArray, attrgetter("kind")),
    "name": (TextArray, attrgetter("name")),
    "digest": (BytesArray, attrgetter("arguments_digest")),
    "output": (TextArray, attrgetter("output")),
    "error": (TextArray, attrgetter("error")),
    "attempts": (IntArray, attrgetter("attempts")),
}
_FAILED: _Fields = {
    "position": (TextArray, attrgetter("position")),
    "step": (TextArray, attrgetter("step")),
    "attempt": (IntArray, attrgetter("attempt")),
    "type": (TextArray, attrgetter("type")),
    "message": (TextArray, attrgetter("message")),
    "traceback": (TextArray, attrgetter("traceback")),
    "fingerprint": (TextArray, attrgetter("fingerprint")),
    "retry_delay_s": (FloatArray, attrgetter("retry_delay_s")),
}
_SETTLEMENT: _Fields = {
    "state": (TextArray, attrgetter("state")),
    "wait_ms": (IntArray, lambda s: None if s.wait_s is None else round(s.wait_s * 1000)),
    "outcome": (TextArray, attrgetter("outcome")),
    "reason": (TextArray, attrgetter("reason")),
    "fingerprint": (TextArray, attrgetter("fingerprint")),
    "failed_step": (TextArray, attrgetter("failed_step")),
    "key": (TextArray, attrgetter("key")),
    "code_version": (TextArray, attrgetter("code_version")),
}


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
    ids, noted_entries, noted_failures, last = zip(*rows, strict=True) if rows else ((),) * 4
    columns: dict[str, object] = {
        "id": TextArray(ids), "token": token, "worker_id": worker_id,
    }  # fmt: skip
    for prefix, items, fields in (
        ("e_", noted_entries, _ENTRY),
        ("f_", noted_failures, _FAILED),
        ("s_", last, _SETTLEMENT),
    ):
        for name, (array, value_of) in fields.items():
            columns[prefix + name] = array([None if x is None else value_of(x) for x in items])
    return dict(fetch(tx, _WRITE, columns))


def _rows(
    entries: Sequence[JournalEntry],
    failed_attempts: Sequence[FailedAttempt],
    settlements: Sequence[Settlement],
) -> list[tuple[str, JournalEntry | None, FailedAttempt | None, Settlement | None]]:
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
