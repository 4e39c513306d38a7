"""The journal: claims, finished steps and outcomes, written under a lease token.

The token is the fence (mechanics 2): every write first locks, in id order, the rows that still
carry it, in the same statement, and writes only those. A worker that lost its lease writes nothing.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from app.store.arrays import BoolArray, BytesArray, FloatArray, IntArray, TextArray


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


class Claim(msgspec.Struct, gc=False):
    """A run in this worker's hands, with the event it is for. `now` is the database's clock."""

    run_id: str
    workflow: str
    queue: str
    generation: int
    attempt: int
    alone: bool
    crashes: int
    code_version: str | None
    key: str | None
    is_cancel_requested: bool
    started_at: datetime
    first_claimed_at: datetime
    now: datetime
    event_id: str
    source: str | None  # None: the event's row is gone
    sender_id: str
    type: str
    subject: str | None
    time: str | None
    datacontenttype: str | None
    dataschema: str | None
    data: str | None
    data_binary: bytes | None
    extensions: str | None
    traceparent: str | None
    accepted_at: datetime | None


class Past(msgspec.Struct):
    """What earlier attempts of a run left: finished entries and failed attempts, by position."""

    entries: dict[str, JournalEntry]
    failures: dict[str, Failures]


# The claim's commit need not be durable: a lost claim is a redelivery, and the token is not on the
# row then, so nothing can be written under it. set_config(.., true) holds for this statement only.
# A run that crashed a worker is claimed only when it is the only one named (mechanics 3). Runs that
# carry the token already are claimed again: the answer to the first try was lost with its
# connection.
_CLAIM = """
with fast as (select set_config('synchronous_commit', 'off', true)),
m as (
    select r.id, k.delivery_id
    from fast, unnest(%(id)s::uuid[], %(delivery_id)s::uuid[]) as k(id, delivery_id)
    join runs r on r.id = k.id
    where (r.state = 'queued' and (not r.alone or %(named)s = 1)) or r.lease_token = %(token)s
    order by r.id
    for no key update of r skip locked
), c as (
    update runs r set state = 'running', lease_token = %(token)s, worker_id = %(worker_id)s,
        delivery_id = m.delivery_id, due_at = now() + %(hold_s)s * interval '1 second',
        attempt = least(r.attempt + 1, 32767), hand_overs = 0,
        claimed_at = coalesce(r.claimed_at, now())
    from m where r.id = m.id
    returning r.*
)
select c.id::text, c.workflow, c.queue, c.generation, c.attempt, c.alone, c.crashes, c.code_version,
    c.key, c.cancel_requested_at is not null, c.started_at, c.claimed_at, now(), c.event_id::text,
    e.source, coalesce(e.sender_id, ''), coalesce(e.type, ''), e.subject, e.time, e.datacontenttype,
    e.dataschema, e.data::text, e.data_binary, e.extensions::text, e.traceparent, e.accepted_at
from c left join events e on e.id = c.event_id
order by c.id
"""

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

# A run that would go on waiting, but whose cancel was requested meanwhile, is cancelled instead.
_WRITE = """
with held as materialized (
    select id, generation, account_id, minute, cancel_requested_at
    from runs where id = any(%(id)s::uuid[]) and lease_token = %(token)s
    order by id for no key update
), j as (
    insert into journal (run_id, generation, position, kind, name, arguments_digest, output, error,
        attempts)
    select h.id, h.generation, u.position, u.kind, u.name, u.digest, u.output, u.error, u.attempts
    from unnest(%(j_id)s::uuid[], %(j_position)s, %(j_kind)s, %(j_name)s, %(j_digest)s,
                %(j_output)s::json[], %(j_error)s::json[], %(j_attempts)s)
        as u(id, position, kind, name, digest, output, error, attempts)
    join held h on h.id = u.id
), f as (
    insert into failed_attempts (run_id, generation, position, step, attempt, type, message,
        traceback,
        fingerprint, retry_delay_s, worker_id)
    select h.id, h.generation, u.position, u.step, u.attempt, u.type, u.message, u.traceback,
        u.fingerprint, u.retry_delay_s, %(worker_id)s
    from unnest(%(f_id)s::uuid[], %(f_position)s, %(f_step)s, %(f_attempt)s, %(f_type)s,
        %(f_message)s,
                %(f_traceback)s, %(f_fingerprint)s, %(f_retry_delay_s)s)
        as u(id, position, step, attempt, type, message, traceback, fingerprint, retry_delay_s)
    join held h on h.id = u.id
), moved as (
    update runs r set lease_token = null,
        state = case when u.is_open and h.cancel_requested_at is not null then 'cancelled'
            else u.state end,
        due_at = case when u.is_open and h.cancel_requested_at is null
            then now() + u.wait_ms / 1000.0 * interval '1 second' end,
        settled_at = case when not u.is_open or h.cancel_requested_at is not null then now() end,
        outcome = u.outcome, fingerprint = u.fingerprint,
        reason = case when u.is_open and h.cancel_requested_at is not null then 'requested'
            else u.reason end,
        failed_step = u.failed_step, key = coalesce(u.key, r.key),
        code_version = coalesce(u.code_version, r.code_version)
    from unnest(%(s_id)s::uuid[], %(s_state)s, %(s_open)s, %(s_wait_ms)s, %(s_outcome)s::json[],
                %(s_reason)s, %(s_fingerprint)s, %(s_failed_step)s, %(s_key)s, %(s_code_version)s)
        as u(id, state, is_open, wait_ms, outcome, reason, fingerprint, failed_step, key,
            code_version)
    join held h on h.id = u.id
    where r.id = h.id
    returning r.state, r.account_id, r.minute
), counted as (
    insert into counter_deltas (account_id, minute, succeeded, failed, cancelled)
    select account_id, minute, count(*) filter (where state = 'succeeded'),
        count(*) filter (where state = 'failed'), count(*) filter (where state = 'cancelled')
    from moved where state in ('succeeded', 'failed', 'cancelled')
    group by account_id, minute
)
select id::text, cancel_requested_at is not null from held
"""

_LOCK_HELD = """
select id::text from runs where id = any(%(id)s::uuid[]) and lease_token = %(token)s
order by id for no key update
"""

# Rows locked by the child's own transactional steps are skipped: nobody can rescue those now.
_RENEW = """
with held as (
    select id from runs where id = any(%(id)s::uuid[]) and lease_token = %(token)s
    order by id for no key update skip locked
)
update runs r set due_at = now() + %(hold_s)s * interval '1 second'
from held where r.id = held.id returning r.id::text
"""

_HAND_BACK = """
with held as (
    select id from runs where id = any(%(id)s::uuid[]) and lease_token = %(token)s
    order by id for no key update
)
update runs r set state = 'queued', lease_token = null, due_at = now(), hand_overs = 0,
    attempt = greatest(r.attempt - 1, 0)
from held where r.id = held.id returning r.id::text
"""

# The hand died with these runs in it. Each travels alone from now on, so that the one that kills
# workers is found; only a death while alone counts against it.
_RELEASE = """
with held as (
    select id from runs where id = any(%(id)s::uuid[]) and lease_token = %(token)s
    order by id for no key update
)
update runs r set state = 'queued', lease_token = null, due_at = now(), hand_overs = 0,
    crashes = r.crashes + r.alone::int, alone = true
from held where r.id = held.id returning r.id::text
"""


def claim(
    tx: Connection,
    token: str,
    worker_id: str,
    deliveries: Sequence[tuple[str, str]],
    hold_s: float,
) -> list[Claim]:
    """The runs of `deliveries` ((run id, delivery id) pairs) that are now this token's, by id.

    A run that is not queued, is locked by another claim, or must travel alone and does not, is not
    in the answer: acknowledging its message is safe, for the run comes due again.
    """
    cursor = tx.exec_driver_sql(
        _CLAIM,
        {
            "id": TextArray([run_id for run_id, _ in deliveries]),
            "delivery_id": TextArray([delivery_id for _, delivery_id in deliveries]),
            "named": len(deliveries),
            "token": token,
            "worker_id": worker_id,
            "hold_s": hold_s,
        },
    ).cursor
    assert cursor is not None
    return [Claim(*row) for row in cursor.fetchall()]


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
    ids = {x.run_id for group in (entries, failed_attempts, settlements) for x in group}
    cursor = tx.exec_driver_sql(
        _WRITE,
        {
            "id": TextArray(sorted(ids)),
            "token": token,
            "worker_id": worker_id,
            "j_id": TextArray([e.run_id for e in entries]),
            "j_position": TextArray([e.position for e in entries]),
            "j_kind": TextArray([e.kind for e in entries]),
            "j_name": TextArray([e.name for e in entries]),
            "j_digest": BytesArray([e.arguments_digest for e in entries]),
            "j_output": TextArray([e.output for e in entries]),
            "j_error": TextArray([e.error for e in entries]),
            "j_attempts": IntArray([e.attempts for e in entries]),
            "f_id": TextArray([f.run_id for f in failed_attempts]),
            "f_position": TextArray([f.position for f in failed_attempts]),
            "f_step": TextArray([f.step for f in failed_attempts]),
            "f_attempt": IntArray([f.attempt for f in failed_attempts]),
            "f_type": TextArray([f.type for f in failed_attempts]),
            "f_message": TextArray([f.message for f in failed_attempts]),
            "f_traceback": TextArray([f.traceback for f in failed_attempts]),
            "f_fingerprint": TextArray([f.fingerprint for f in failed_attempts]),
            "f_retry_delay_s": FloatArray([f.retry_delay_s for f in failed_attempts]),
            "s_id": TextArray([s.run_id for s in settlements]),
            "s_state": TextArray([s.state for s in settlements]),
            "s_open": BoolArray([s.wait_s is not None for s in settlements]),
            "s_wait_ms": IntArray([round((s.wait_s or 0) * 1000) for s in settlements]),
            "s_outcome": TextArray([s.outcome for s in settlements]),
            "s_reason": TextArray([s.reason for s in settlements]),
            "s_fingerprint": TextArray([s.fingerprint for s in settlements]),
            "s_failed_step": TextArray([s.failed_step for s in settlements]),
            "s_key": TextArray([s.key for s in settlements]),
            "s_code_version": TextArray([s.code_version for s in settlements]),
        },
    ).cursor
    assert cursor is not None
    return dict(cursor.fetchall())


def lock_held(tx: Connection, token: str, run_ids: Sequence[str]) -> set[str]:
    """Lock the runs that still carry the token until the transaction ends; the ones that do.

    Transactional steps run behind this lock, so their effect and the loss of the lease exclude each
    other.
    """
    keys = {"id": TextArray(sorted(run_ids)), "token": token}
    return {row[0] for row in tx.exec_driver_sql(_LOCK_HELD, keys)}


def renew(tx: Connection, token: str, run_ids: Sequence[str], hold_s: float) -> set[str]:
    """Extend the leases of these runs by `hold_s` from now; the ones extended."""
    keys = {"id": TextArray(sorted(run_ids)), "token": token, "hold_s": hold_s}
    return {row[0] for row in tx.exec_driver_sql(_RENEW, keys)}


def hand_back(tx: Connection, token: str, run_ids: Sequence[str]) -> set[str]:
    """Make runs nobody began due now; the ones that were still held."""
    keys = {"id": TextArray(sorted(run_ids)), "token": token}
    return {row[0] for row in tx.exec_driver_sql(_HAND_BACK, keys)}


def release(tx: Connection, token: str, run_ids: Sequence[str]) -> set[str]:
    """Make the runs of a dead hand due now, each alone; the ones that were still held."""
    keys = {"id": TextArray(sorted(run_ids)), "token": token}
    return {row[0] for row in tx.exec_driver_sql(_RELEASE, keys)}


def existing(tx: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of these ids that are runs of ours, in any state."""
    rows = tx.exec_driver_sql(
        "select id::text from runs where id = any(%(id)s::uuid[])", {"id": TextArray(run_ids)}
    )
    return {row[0] for row in rows}
