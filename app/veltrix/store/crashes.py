"""Crashes in the evidence of runs: attempts that ended with their worker's process.

They are failed attempts like others, marked, so that they take none of a step's retries.
"""

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection

from veltrix.domain.places import WORKER_POSITION
from veltrix.domain.states import Reason
from veltrix.store.arrays import TextArray, uuids
from veltrix.store.failure_deltas import POISON_GROUP

CRASHED, VANISHED = "WorkerCrashed", "WorkerVanished"
_VANISHED_MESSAGE = (
    "its worker did not renew the lease: it ended, stood still, or could not reach the database"
)


class Crash(msgspec.Struct, kw_only=True):
    """What is known of a run's crash. `began`: the attempt, monotonic; None: that is not known."""

    run_id: str
    message: str
    position: str = WORKER_POSITION
    step: str = ""
    began: float | None = None
    took_ms: int | None = None
    arguments: str | None = None
    worker_id: str = ""  # of the child, for a run whose row does not name it yet


# A worker child ends once, so a second row of it would be of a statement that is tried again.
_NOTE = f"""
insert into failed_attempts (run_id, generation, position, step, attempt, type, message, traceback,
    fingerprint, worker_id, retry_delay_s, began_at, took_ms, arguments, is_crash)
select r.id, r.generation, %(position)s, %(step)s, least(32767, 1 + (
        select count(*) from failed_attempts f where f.run_id = r.id
            and f.generation = r.generation and f.position = %(position)s
    )), '{CRASHED}', %(message)s, '', {POISON_GROUP}, coalesce(r.worker_id, %(worker_id)s), 0,
    clock_timestamp() - %(ago_ms)s::bigint * interval '1 ms', %(took_ms)s::bigint,
    %(arguments)s::text, true
from runs r
where r.life = 0 and r.id = %(run_id)s::uuid and r.lease_token = any(%(tokens)s) and not exists (
    select from failed_attempts f where f.run_id = r.id and f.generation = r.generation
        and f.is_crash and f.worker_id = coalesce(r.worker_id, %(worker_id)s)
)
"""  # noqa: S608 - put together from constants

_NOTE_VANISHED = f"""
insert into failed_attempts (run_id, generation, position, step, attempt, type, message, traceback,
    fingerprint, worker_id, retry_delay_s, is_crash)
select r.id, r.generation, '{WORKER_POSITION}', '', least(32767, 1 + (
        select count(*) from failed_attempts f where f.run_id = r.id
            and f.generation = r.generation and f.position = '{WORKER_POSITION}'
    )), '{VANISHED}', '{_VANISHED_MESSAGE}', '', {POISON_GROUP}, r.worker_id, 0, true
from runs r where r.life = 0 and r.id = any(%(id)s::uuid[])
"""  # noqa: S608 - put together from constants

# What the last crash says becomes the outcome; of old rows nothing is known but that it ended
# workers.
_FAIL_POISON = f"""
with last as (
    select r.id, r.crashes, c.attempt_id, c.step, c.type, c.message
    from runs r left join lateral (
        select f.id as attempt_id, f.step, f.type, f.message from failed_attempts f
        where f.run_id = r.id and f.generation = r.generation and f.is_crash
        order by f.id desc limit 1
    ) c on true
    where r.life = 0 and r.id = any(%(id)s::uuid[]) and r.state = 'queued'
), failed as (
    update runs r set state = 'failed', life = life_of('failed'), reason = '{Reason.POISON}',
        due_at = null, settled_at = now(), fingerprint = {POISON_GROUP},
        failed_step = nullif(last.step, ''),
        outcome = json_build_object('type', coalesce(last.type, '{CRASHED}'),
            'message', coalesce(last.message, 'it ended the worker process each time'),
            'crashes', last.crashes)
    from last
    where r.life = 0 and r.id = last.id and r.id = any(%(id)s::uuid[]) and r.state = 'queued'
    returning r.id, r.account_id, r.minute, r.workflow, r.code_version, r.fingerprint,
        r.failed_step, last.attempt_id
), ended as (
    update failed_attempts f set retry_delay_s = null from failed
    where f.run_id = failed.id and f.id = failed.attempt_id
), counted as (
    insert into counter_deltas (account_id, minute, failed)
    select account_id, minute, count(*) from failed group by account_id, minute
), grouped as (
    insert into failure_deltas (group_id, kind, workflow, step, code_version, run_id, count, seen)
    select fingerprint, 'poison', workflow, failed_step, code_version,
        (array_agg(id order by id desc))[1], count(*), count(*)
    from failed group by fingerprint, workflow, failed_step, code_version
)
select count(*) from failed
"""  # noqa: S608 - put together from constants


def note(tx: Connection, tokens: str | Sequence[str], crash: Crash, now: float) -> int:
    """Keep the crash with its run, if that still carries a token; how many rows (0 or 1).

    `now` is of the clock by which the attempt began.
    """
    ago_ms = None if crash.began is None else round((now - crash.began) * 1000)
    values = msgspec.structs.asdict(crash) | {
        "tokens": uuids(tokens),
        "ago_ms": ago_ms,
    }
    return tx.exec_driver_sql(_NOTE, values).rowcount


def note_vanished(tx: Connection, run_ids: Collection[str]) -> int:
    """Keep with these runs that the worker which held them was not heard of any more."""
    return tx.exec_driver_sql(_NOTE_VANISHED, {"id": TextArray(sorted(run_ids))}).rowcount


def fail_poison(tx: Connection, run_ids: Collection[str]) -> None:
    """Fail those of these runs that are queued: they have ended too many workers.

    The outcome is how the last one ended, and in which step.
    """
    tx.exec_driver_sql(_FAIL_POISON, {"id": TextArray(sorted(run_ids))})
