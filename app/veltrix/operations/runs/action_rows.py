"""What operators do to runs: replay and cancel, each one statement for a whole list.

States change by compare-and-set on rows locked in id order; the counters' delta and the action,
with its author and reason, commit with the move.
"""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import msgspec
from sqlalchemy import Connection

from veltrix.releases.subscription_rows import QUEUE_NOW
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.failure_deltas import LEAVE_GROUPS

LIST_RUNS_MAX = 1_000


class FailedRun(msgspec.Struct, gc=False):
    """A failed run, as a replay finds it."""

    run_id: str
    generation: int
    reason: str | None
    failed_step: str | None


class Recorded(msgspec.Struct, gc=False):
    """An entry in the journal of a failed run: where, what, and whether it failed for good."""

    position: str
    name: str
    is_error: bool


class MovedRun(msgspec.Struct, gc=False):
    """A run that an action moved, in the state and generation it has now."""

    run_id: str
    event_id: str
    workflow: str
    state: str
    generation: int
    steps_kept: int = 0


_FAILED = """
select id::text, generation, reason, failed_step
from runs where life < 2 and id = any(%(id)s::uuid[]) and state = 'failed'
order by id
"""

# Only of runs in which a step failed for good: of the others everything is kept. In the order of
# recording, so that the last error is the last one.
_RECORDED = """
select j.run_id::text, j.position, j.name, j.error is not null
from unnest(%(id)s::uuid[], %(generation)s) as k(id, generation)
cross join lateral (
    select *, bool_or(error is not null) over () as has_failed from journal
    where run_id = k.id and generation = k.generation
) j
where j.has_failed
order by j.run_id, j.recorded_at, j.position
"""

_STATES = "select id::text, state from runs where id = any(%(id)s::uuid[])"

# The old journal stays as evidence under its generation. What is kept of it is copied, times and
# all: a sleep that began stays begun.
_REPLAY = f"""
with held as materialized (
    select r.id, r.generation, r.fingerprint, r.reason, r.archived_at
    from unnest(%(id)s::uuid[], %(generation)s) as k(id, generation)
    join runs r on r.id = k.id and r.generation = k.generation
    where r.life < 2 and r.id = any(%(id)s::uuid[]) and r.state = 'failed'
    order by r.id for no key update of r
), moved as (
    update runs r set state = 'queued', life = 0, generation = r.generation + 1, due_at = now(),
        queue = {QUEUE_NOW},
        attempt = 0, hand_overs = 0, crashes = 0, alone = false, cancel_requested_at = null,
        claimed_at = null, settled_at = null, outcome = null, reason = null, fingerprint = null,
        failed_step = null, archived_at = null
    from held where r.life < 2 and r.id = held.id and r.id = any(%(id)s::uuid[])
    returning r.id, r.event_id, r.workflow, r.state, r.generation, r.account_id, r.minute,
        held.fingerprint, held.reason, held.archived_at
), counted as (
    insert into counter_deltas (account_id, minute, failed)
    select account_id, minute, -count(*) from moved group by account_id, minute
), ungrouped as (
    {LEAVE_GROUPS.format(rows="moved")}
), kept as (
    insert into journal (run_id, generation, position, kind, name, arguments_digest, output, error,
        attempts, recorded_at, began_at, took_ms, arguments)
    select j.run_id, m.generation, j.position, j.kind, j.name, j.arguments_digest, j.output,
        j.error, j.attempts, j.recorded_at, j.began_at, j.took_ms, j.arguments
    from moved m cross join lateral (
        select * from journal where run_id = m.id and generation = m.generation - 1 offset 0
    ) j
    where %(is_journal_kept)s and not exists (
        select from unnest(%(dropped_id)s::uuid[], %(dropped_position)s) as d(id, position)
        where d.id = j.run_id and d.position = j.position
    )
    returning run_id
), noted as (
    insert into actions (run_id, action, generation, author, reason)
    select id, %(action)s, generation, %(author)s, %(reason)s from moved order by id
)
select m.id::text, m.event_id::text, m.workflow, m.state, m.generation,
    (select count(*) from kept where kept.run_id = m.id)
from moved m order by m.id
"""  # noqa: S608 - put together from constants

# Of a run that a worker has, or is about to have, it is a request.
_CANCEL = """
with held as materialized (
    select id, lease_token is not null as is_held from runs
    where life = 0 and id = any(%(id)s::uuid[]) and due_at is not null
    order by id for no key update
), moved as (
    update runs r set
        state = case when held.is_held then r.state else 'cancelled' end,
        life = case when held.is_held then 0 else life_of('cancelled') end,
        due_at = case when held.is_held then r.due_at end,
        settled_at = case when held.is_held then null else now() end,
        reason = case when held.is_held then r.reason else 'requested' end,
        cancel_requested_at = coalesce(r.cancel_requested_at, now())
    from held where r.life = 0 and r.id = held.id
    returning r.id, r.event_id, r.workflow, r.state, r.generation, r.account_id, r.minute
), counted as (
    insert into counter_deltas (account_id, minute, cancelled)
    select account_id, minute, count(*) from moved where state = 'cancelled'
    group by account_id, minute
), noted as (
    insert into actions (run_id, action, generation, author, reason)
    select id, 'cancel', generation, %(author)s, %(reason)s from moved order by id
)
select id::text, event_id::text, workflow, state, generation from moved order by id
"""


def canonical(text: str) -> str | None:
    """The id as the tables write it, or None for what is no id."""
    try:
        id_ = str(UUID(text))
    except ValueError:
        return None
    return id_ if len(text) == len(id_) else None


def sorted_ids(run_ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """The ids of a list, once each and in order; and what in it is no id.

    ValueError for a list longer than LIST_RUNS_MAX.
    """
    texts = set(run_ids)
    if len(texts) > LIST_RUNS_MAX:
        raise ValueError(f"{len(texts):,} runs; name at most {LIST_RUNS_MAX:,} at a time")
    ids = {text: canonical(text) for text in texts}
    return (
        sorted({id_ for id_ in ids.values() if id_ is not None}),
        sorted(text for text, id_ in ids.items() if id_ is None),
    )


def failed_runs(tx: Connection, run_ids: Sequence[str]) -> list[FailedRun]:
    """Those of these runs that are failed now, by id."""
    found = tx.exec_driver_sql(_FAILED, {"id": TextArray(run_ids)})
    return [FailedRun(*row) for row in found]


def recorded(tx: Connection, runs: Sequence[FailedRun]) -> dict[str, list[Recorded]]:
    """The journal of those runs in which a step failed for good, in the order of recording."""
    journals: dict[str, list[Recorded]] = {}
    for run_id, *entry in tx.exec_driver_sql(
        _RECORDED,
        {
            "id": TextArray([run.run_id for run in runs]),
            "generation": IntArray([run.generation for run in runs]),
        },
    ):
        journals.setdefault(run_id, []).append(Recorded(*entry))
    return journals


def states_of(tx: Connection, run_ids: Sequence[str]) -> dict[str, str]:
    """The state of each of these runs that exists."""
    return {row[0]: row[1] for row in tx.exec_driver_sql(_STATES, {"id": TextArray(run_ids)})}


def replay(
    tx: Connection,
    runs: Sequence[FailedRun],
    dropped: Mapping[str, Sequence[str]] | None,
    *,
    action: str,
    reason: str,
    author: str,
) -> list[MovedRun]:
    """Make these runs queued again in their next generation, due now; those that still were failed.

    Their journal goes with them except the positions in `dropped`; all of it stays behind when
    `dropped` is None.
    """
    drops = [
        (id_, position) for id_, positions in (dropped or {}).items() for position in positions
    ]
    moved = tx.exec_driver_sql(
        _REPLAY,
        {
            "id": TextArray([run.run_id for run in runs]),
            "generation": IntArray([run.generation for run in runs]),
            "is_journal_kept": dropped is not None,
            "dropped_id": TextArray([run_id for run_id, _ in drops]),
            "dropped_position": TextArray([position for _, position in drops]),
            "action": action,
            "reason": reason,
            "author": author,
        },
    )
    return [MovedRun(*row) for row in moved]


def cancel(tx: Connection, run_ids: Sequence[str], *, reason: str, author: str) -> list[MovedRun]:
    """Cancel those of these runs that no worker holds, ask for it of those that are running.

    Runs that are settled or unknown are not in the answer.
    """
    keys = {"id": TextArray(run_ids), "reason": reason, "author": author}
    return [MovedRun(*row) for row in tx.exec_driver_sql(_CANCEL, keys)]
