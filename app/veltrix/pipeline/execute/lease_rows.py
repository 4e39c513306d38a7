"""Leases: the right of one worker to work on a run, until a time of the database's clock.

A claim puts a token on a row, or the insert of a run that is handed over as claimed does. Every
later statement about it first locks, in id order, the rows that still carry it, and touches only
those (mechanics 2). What a child has at once may carry several tokens: of its claim, and of each
message that it began without one. A token is on a run once, so all of them fence as well as one.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import event_id_of
from veltrix.store.arrays import IntArray, UuidArray, uuids
from veltrix.store.transactions import fetch

Tokens = str | Sequence[str]  # one, or all that a child has on its runs


class Claim(msgspec.Struct, gc=False):
    """A run in this worker's hands, with the event it is for. `now` is the database's clock.

    `handed_by`: the message by which it came as claimed; nothing on its row says that it is run.
    """

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
    handed_by: str | None = None


# The claim's commit need not be durable: a lost claim is a redelivery, and the token is not on the
# row then, so nothing can be written under it. set_config(.., true) holds for this statement only.
# A run that crashed a worker is claimed only when it is the only one named (mechanics 3). Runs that
# carry the token already are claimed again: the answer to the first try was lost with its
# connection. A queued run with a token is handed over as claimed: whoever was told the token may
# take it, and nobody else before its hold is over. The update locks, in the order of the ids; a
# lock of its own before it cost a third.
_CLAIM = """
with c as (
    update runs r set state = 'running', lease_token = %(token)s, worker_id = %(worker_id)s,
        delivery_id = k.delivery_id, due_at = now() + %(hold_s)s * interval '1 second',
        attempt = least(r.attempt + 1, 32767), hand_overs = 0,
        claimed_at = coalesce(r.claimed_at, now())
    from (
        select u.id, u.delivery_id
        from (select set_config('synchronous_commit', 'off', true)) fast,
            unnest(%(id)s::uuid[], %(delivery_id)s::uuid[]) as u(id, delivery_id)
        order by u.id
    ) k
    where r.life = 0 and r.id = k.id and r.id = any(%(id)s::uuid[])
        and ((r.state = 'queued' and (not r.alone or %(named)s = 1)
            and (r.lease_token is null or r.lease_token = any(%(told)s)))
        or r.lease_token = any(%(ours)s))
    returning r.id, r.workflow, r.queue, r.generation, r.attempt, r.alone, r.crashes,
        r.code_version, r.key, r.cancel_requested_at, r.started_at, r.claimed_at, r.event_id
)
select c.id::text, c.workflow, c.queue, c.generation, c.attempt, c.alone, c.crashes, c.code_version,
    c.key, c.cancel_requested_at is not null, c.started_at, c.claimed_at, now(), c.event_id::text,
    e.source, coalesce(e.sender_id, ''), coalesce(e.type, ''), e.subject, e.time, e.datacontenttype,
    e.dataschema, e.data::text, e.data_binary, e.extensions::text, e.traceparent, e.accepted_at
from c left join lateral (
    select * from events where id = c.event_id and id >= %(first)s::uuid and id <= %(last)s::uuid
    offset 0
) e on true
order by c.id
"""

_NO_ID = "00000000-0000-0000-0000-000000000000"

_OURS = "life = 0 and id = any(%(id)s::uuid[]) and lease_token = any(%(tokens)s)"
# The planner takes the table of open runs for empty, and would read all of it.
_NAMED = "r.life = 0 and r.id = any(%(id)s::uuid[])"

_LOCK_HELD = f"select id::text from runs where {_OURS} order by id for no key update"  # noqa: S608 - of constants

_HELD = f"select id::text from runs where {_OURS}"  # noqa: S608 - of constants

# Rows locked by the child's own transactional steps are skipped: nobody can rescue those now. In
# such a transaction itself it is not the time at which that began that counts.
_RENEW = f"""
with held as (
    select id from runs where {_OURS} order by id for no key update skip locked
)
update runs r set due_at = clock_timestamp() + %(hold_s)s * interval '1 second'
from held where {_NAMED} and r.id = held.id returning r.id::text
"""  # noqa: S608 - of constants

# Of runs that came as claimed: from here on their rows say who runs them.
_ANNOUNCE = f"""
with held as (
    select id from runs where {_OURS} order by id for no key update skip locked
)
update runs r set state = 'running', attempt = greatest(r.attempt, 1), hand_overs = 0,
    worker_id = %(worker_id)s, delivery_id = k.delivery_id,
    claimed_at = coalesce(r.claimed_at, clock_timestamp() - k.ago * interval '1 ms'),
    due_at = clock_timestamp() + %(hold_s)s * interval '1 second'
from held join unnest(%(id)s::uuid[], %(delivery_id)s::uuid[], %(ago)s)
    as k(id, delivery_id, ago) on k.id = held.id
where {_NAMED} and r.id = held.id returning r.id::text
"""  # noqa: S608 - of constants

_HAND_BACK = f"""
with held as (
    select id from runs where {_OURS} order by id for no key update{{skip_locked}}
)
update runs r set state = 'queued', lease_token = null, due_at = now(), hand_overs = 0,
    attempt = greatest(r.attempt - (not %(is_attempt)s)::int, %(is_attempt)s::int)
from held where {_NAMED} and r.id = held.id returning r.id::text
"""  # noqa: S608 - of constants

# The child died with these runs in it. Each travels alone from now on, so that the one that kills
# workers is found; only a death while alone counts against it. Where only the child failed, none is
# suspected. One that came as claimed has been attempted too: the next claim reads what is left.
_RELEASE = f"""
with held as (
    select id from runs where {_OURS} order by id for no key update
)
update runs r set state = 'queued', lease_token = null, hand_overs = 0,
    attempt = greatest(r.attempt, 1),
    due_at = now() + %(due_in_s)s * interval '1 second',
    crashes = r.crashes + (r.alone and %(is_death)s)::int, alone = r.alone or %(is_death)s
from held where {_NAMED} and r.id = held.id returning r.id::text
"""  # noqa: S608 - of constants


# Runs that travelled alone and have got on: no longer suspected.
_FORGIVE = f"""
with m as (
    select id from runs where {_OURS} and alone order by id for no key update
)
update runs r set crashes = 0, alone = false from m where {_NAMED} and r.id = m.id
"""  # noqa: S608 - of constants


def claim(
    tx: Connection,
    token: str,
    worker_id: str,
    deliveries: Sequence[tuple[str, str]],
    hold_s: float,
    told: Sequence[str] = (),
    *,
    is_again: bool = False,
) -> list[Claim]:
    """The runs of `deliveries` ((run id, delivery id) pairs) that are now this token's, by id.

    A run that is not queued, is locked by another claim, must travel alone and does not, or is
    handed over as claimed under a token that is not among those we were `told`, is not in the
    answer: acknowledging its message is safe, for the run comes due again. `is_again`: those that
    are run under a token that we were told are run by us.
    """
    ids = [run_id for run_id, _ in deliveries]
    rows = fetch(
        tx,
        _CLAIM,
        {
            "id": UuidArray(ids),
            "first": event_id_of(min(ids, default=_NO_ID)),
            "last": max(ids, default=_NO_ID),
            "delivery_id": UuidArray([delivery_id for _, delivery_id in deliveries]),
            "named": len(deliveries),
            "told": UuidArray(told),
            "ours": UuidArray([token, *told] if is_again else [token]),
            "token": token,
            "worker_id": worker_id,
            "hold_s": hold_s,
        },
    )
    return [Claim(*row) for row in rows]


def lock_held(tx: Connection, tokens: Tokens, run_ids: Sequence[str]) -> set[str]:
    """Lock the runs that still carry one of these tokens until the transaction ends; those that do.

    Transactional steps run behind this lock, so their effect and the loss of the lease exclude each
    other.
    """
    keys = {"id": UuidArray(sorted(run_ids)), "tokens": uuids(tokens)}
    return {row[0] for row in tx.exec_driver_sql(_LOCK_HELD, keys)}


def renew(tx: Connection, tokens: Tokens, run_ids: Sequence[str], hold_s: float) -> set[str]:
    """Extend the leases of these runs by `hold_s` from now; the ones extended.

    Of those missing some may be locked by a transactional step; see `held`.
    """
    keys = {"id": UuidArray(sorted(run_ids)), "tokens": uuids(tokens), "hold_s": hold_s}
    return {row[0] for row in tx.exec_driver_sql(_RENEW, keys)}


def announce(
    tx: Connection,
    tokens: Tokens,
    worker_id: str,
    handed: Sequence[tuple[str, str, float]],
    hold_s: float,
) -> set[str]:
    """Say of runs that came as claimed that they are run here, and extend their leases.

    `handed` are (run id, delivery id, seconds since it was begun here). Before anything else is
    written of such a run but its end: so what a queued run has is never somebody's work. The ones
    that are still held, unless somebody of this worker locks them; see `held`.
    """
    rows = sorted(handed)
    keys = {
        "id": UuidArray([run_id for run_id, _, _ in rows]),
        "delivery_id": UuidArray([delivery_id for _, delivery_id, _ in rows]),
        "ago": IntArray([int(ago_s * 1000) for _, _, ago_s in rows]),
        "tokens": uuids(tokens),
        "worker_id": worker_id,
        "hold_s": hold_s,
    }
    return {row[0] for row in tx.exec_driver_sql(_ANNOUNCE, keys)}


def held(tx: Connection, tokens: Tokens, run_ids: Sequence[str]) -> set[str]:
    """Those of these runs that carry one of them, locked or not."""
    keys = {"id": UuidArray(sorted(run_ids)), "tokens": uuids(tokens)}
    return {row[0] for row in tx.exec_driver_sql(_HELD, keys)}


def hand_back(
    tx: Connection,
    tokens: Tokens,
    run_ids: Sequence[str],
    *,
    waits: bool = True,
    is_attempt: bool = False,
) -> set[str]:
    """Make runs of which no step began due now; the ones that were still held.

    `is_attempt`: something is in their journals, which the next claim has to read. Without `waits`,
    of those missing some may be locked by a transactional step; see `held`.
    """
    keys = {
        "id": UuidArray(sorted(run_ids)),
        "tokens": uuids(tokens),
        "is_attempt": is_attempt,
    }
    statement = _HAND_BACK.format(skip_locked="" if waits else " skip locked")
    return {row[0] for row in tx.exec_driver_sql(statement, keys)}


def release(
    tx: Connection,
    tokens: Tokens,
    run_ids: Sequence[str],
    due_in_s: float,
    *,
    is_death: bool = True,
) -> set[str]:
    """Free the runs of a dead child, due in `due_in_s`; the ones still held.

    `is_death`: each is alone from now on. Else its child lives: nothing is held against them.
    """
    keys = {
        "id": UuidArray(sorted(run_ids)),
        "tokens": uuids(tokens),
        "due_in_s": due_in_s,
        "is_death": is_death,
    }
    return {row[0] for row in tx.exec_driver_sql(_RELEASE, keys)}


def forgive(tx: Connection, tokens: Tokens, run_ids: Sequence[str]) -> None:
    """Those of these runs that are held have got past what ended their workers.

    They need not travel alone any more.
    """
    tx.exec_driver_sql(_FORGIVE, {"id": UuidArray(sorted(run_ids)), "tokens": uuids(tokens)})


def open_ones(tx: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of these runs that have no outcome."""
    rows = tx.exec_driver_sql(
        "select id::text from runs where life = 0 and id = any(%(id)s) and settled_at is null",
        {"id": UuidArray(run_ids)},
    )
    return {row[0] for row in rows}


def existing(tx: Connection, run_ids: Sequence[str]) -> set[str]:
    """Those of these ids that are runs of ours, in any state."""
    rows = tx.exec_driver_sql(
        "select id::text from runs where id = any(%(id)s::uuid[])", {"id": UuidArray(run_ids)}
    )
    return {row[0] for row in rows}
