"""The rows of replays as they move: locked, marked and counted in the transaction of the moves.

Locks are taken in this order: the replay, its runs in id order, the runs themselves in id order.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.rules import Counts, Judged, ReplayState
from veltrix.store.arrays import IntArray, TextArray
from veltrix.store.journal_of import JOURNAL_OF

BURST_S = 1.0  # of the rate: what was missed while nobody looked is not made up for


class HeldReplay(Counts, kw_only=True):
    """A replay whose row this transaction has locked. `allowed`: runs its rate lets move now."""

    id: str
    state: ReplayState
    resumes_as: ReplayState | None
    mode: ReplayMode
    rate: float
    canary: int
    canary_to: int
    stop_share: float | None
    patch: str | None
    judged_succeeded: int
    judged_failed_again: int
    author: str
    reason: str
    planned_at: datetime
    started_by: str | None
    start_reason: str | None
    why: str | None
    allowed: int

    @property
    def since(self) -> Judged:
        """Outcomes that are not held against it."""
        return Judged(self.judged_succeeded, self.judged_failed_again)


class Planned(msgspec.Struct, gc=False):
    """A run whose turn it is, as it was when it was planned. `edits`: how often it was edited."""

    run_id: str
    generation: int
    edits: int
    is_archived: bool


class MovedByReplay(msgspec.Struct, gc=False):
    """A run that was replayed: as which generation, or as which new run."""

    run_id: str
    generation: int
    new_run_id: str | None = None


class Skipped(msgspec.Struct, gc=False):
    """A run that was not replayed, and why."""

    run_id: str
    reason: str


class Followed(msgspec.Struct, gc=False):
    """What has become of a replayed run; None: it has no outcome yet."""

    run_id: str
    state: str | None


class Now(msgspec.Struct, gc=False):
    """A run as it is now, how often it was edited, and who did something about it last."""

    run_id: str
    state: str
    generation: int
    edits: int
    is_archived: bool
    action: str | None
    author: str | None


# Those with runs to move, and those that only wait for outcomes, in one look: each from a place on.
_PART = """(
select id::text, {moves} from replays
where (state in ('canary', 'running') or replayed > succeeded + failed_again + cancelled)
    and (state in ('canary', 'running') and planned > replayed + skipped) = {moves}
    and id > %({after})s::uuid
order by id limit %(limit)s
)"""
_AT_WORK = " union all ".join(
    _PART.format(moves=moves, after=after)
    for moves, after in (("true", "moving"), ("false", "open"))
)

_HOLD = """
select {columns}, patch::text,
    greatest(0, least(1000000, floor(extract(epoch from now() - greatest(paced_at,
        now() - greatest(%(burst_s)s, 1 / rate) * interval '1 second')) * rate)))::int
from replays where id = %(id)s for no key update{skip}
"""

_NEXT = """
select run_id::text, generation, edits, is_archived from replay_runs
where replay_id = %(id)s and state = 'planned'
order by run_id limit %(limit)s for no key update
"""

_OPEN = """
select k.run_id::text,
    case when r.id is null then 'cancelled'
         when r.generation > k.moved_generation or r.state = 'failed' then 'failed_again'
         when r.settled_at is not null then r.state end
from (
    select run_id, coalesce(new_run_id, run_id) as id, moved_generation from replay_runs
    where replay_id = %(id)s and state = 'replayed' and run_id > %(after)s::uuid
    order by run_id limit %(limit)s
) k left join runs r on r.id = k.id
order by k.run_id
"""

# Of the moved runs that are open: those with an entry for the step whose error was the last in the
# generation that was planned, recorded since the move. From the beginning also what came before
# that step runs again, so its position counts too.
_PASSED = f"""
select count(*)
from (
    select run_id, generation, new_run_id, moved_generation, moved_at from replay_runs
    where replay_id = %(id)s and state = 'replayed' order by run_id limit %(limit)s
) k
cross join lateral (
    select j.name, j.position from journal j
    where j.run_id = k.run_id and j.generation = k.generation and j.error is not null
    order by j.recorded_at desc, j.position desc limit 1
) failed
where exists (
    select from {JOURNAL_OF} j
    where j.run_id = coalesce(k.new_run_id, k.run_id) and j.generation = k.moved_generation
      and j.name = failed.name and j.error is null and j.recorded_at > k.moved_at
      and (%(is_begun_anew)s is false or j.position = failed.position)
)
"""  # noqa: S608 - put together from constants

_MARK_MOVED = """
update replay_runs k set state = 'replayed', moved_generation = u.generation,
    new_run_id = u.new_run_id, moved_at = now()
from unnest(%(run_id)s::uuid[], %(generation)s, %(new_run_id)s::uuid[])
    as u(run_id, generation, new_run_id)
where k.replay_id = %(id)s and k.run_id = u.run_id and k.state = 'planned'
"""

_MARK_SKIPPED = """
update replay_runs k set state = 'skipped', skip_reason = u.reason, moved_at = now()
from unnest(%(run_id)s::uuid[], %(reason)s) as u(run_id, reason)
where k.replay_id = %(id)s and k.run_id = u.run_id and k.state = 'planned'
"""

_MARK_SETTLED = """
update replay_runs k set state = u.state, settled_at = now()
from unnest(%(run_id)s::uuid[], %(state)s) as u(run_id, state)
where k.replay_id = %(id)s and k.run_id = u.run_id and k.state = 'replayed'
"""

_LOCK_RUNS = "select id from runs where id = any(%(id)s::uuid[]) order by id for no key update"

_NOW = """
select r.id::text, r.state, r.generation,
    (select count(*) from edits e where e.origin_run_id = r.id), r.archived_at is not null,
    a.action, a.author
from runs r left join lateral (
    select action, author from actions where run_id = r.id order by id desc limit 1
) a on true
where r.id = any(%(id)s::uuid[])
"""

# What the moves used up of the rate counts from now at the earliest.
_SAVE = """
update replays set state = %(state)s, resumes_as = %(resumes_as)s, why = %(why)s,
    canary_to = %(canary_to)s, replayed = %(replayed)s, succeeded = %(succeeded)s,
    failed_again = %(failed_again)s, cancelled = %(cancelled)s, skipped = %(skipped)s,
    judged_succeeded = %(judged_succeeded)s, judged_failed_again = %(judged_failed_again)s,
    paced_at = case when %(is_begun)s then now() - 1 / rate * interval '1 second'
        else greatest(paced_at, now() - greatest(%(burst_s)s, 1 / rate) * interval '1 second')
            + %(moved)s / rate * interval '1 second' end,
    ended_at = case when %(state)s in ('aborted', 'done') then coalesce(ended_at, now()) end,
    changed_at = now(), changed_by = coalesce(%(changed_by)s, changed_by)
where id = %(id)s
"""

_START = """
update replays set started_by = %(author)s, start_reason = %(reason)s, started_at = now()
where id = %(id)s
"""

_FORGET = """
with old as materialized (
    select id from replays
    where state = 'planned' and planned_at < now() - %(days)s * interval '1 day'
    order by id limit 1 for update skip locked
), emptied as (
    delete from replay_runs where replay_id in (select id from old)
), gone as (
    delete from replays where id in (select id from old) returning id
)
select count(*) from gone
"""

_FIELDS = [name for name in HeldReplay.__struct_fields__ if name not in {"patch", "allowed"}]
_COLUMNS = ", ".join("id::text" if name == "id" else name for name in _FIELDS)


def at_work(tx: Connection, moving: str, open_: str, limit: int) -> tuple[list[str], list[str]]:
    """Replays beyond `moving` with runs to move, and beyond `open_` with only outcomes to come."""
    keys = {"moving": moving, "open": open_, "limit": limit}
    rows = tx.exec_driver_sql(_AT_WORK, keys).all()
    return [id_ for id_, moves in rows if moves], [id_ for id_, moves in rows if not moves]


def hold(tx: Connection, replay_id: str, *, waits: bool) -> HeldReplay | None:
    """Lock the replay until the transaction ends. None: there is none, or another has it locked.

    `waits`: wait for that other instead, as an operator does.
    """
    query = _HOLD.format(columns=_COLUMNS, skip="" if waits else " skip locked")
    row = tx.exec_driver_sql(query, {"id": replay_id, "burst_s": BURST_S}).one_or_none()
    if row is None:
        return None
    *values, patch, allowed = row
    fields = dict(zip(_FIELDS, values, strict=True))
    return msgspec.convert(fields | {"patch": patch, "allowed": allowed}, HeldReplay)


def next_runs(tx: Connection, replay_id: str, limit: int) -> list[Planned]:
    """The runs whose turn it is, oldest first."""
    rows = tx.exec_driver_sql(_NEXT, {"id": replay_id, "limit": limit})
    return [Planned(*row) for row in rows]


def follow(tx: Connection, replay_id: str, after: str, limit: int) -> list[Followed]:
    """What has become of the replayed runs beyond `after` that had no outcome yet."""
    keys = {"id": replay_id, "after": after, "limit": limit}
    return [Followed(*row) for row in tx.exec_driver_sql(_OPEN, keys)]


def passed(tx: Connection, held: HeldReplay, limit: int) -> int:
    """How many of its open runs (the first `limit`) are beyond the step that they had failed in.

    A run that failed in no step has to have an outcome instead.
    """
    keys = {"id": held.id, "limit": limit, "is_begun_anew": held.mode is ReplayMode.BEGINNING}
    return int(tx.exec_driver_sql(_PASSED, keys).scalar_one())


def as_they_are(tx: Connection, run_ids: Sequence[str]) -> dict[str, Now]:
    """Those of these runs that there are, locked: they stay so until the transaction ends."""
    ids = TextArray(list(run_ids))
    tx.exec_driver_sql(_LOCK_RUNS, {"id": ids})
    found = tx.exec_driver_sql(_NOW, {"id": ids})
    return {row[0]: Now(*row) for row in found}


def mark_moved(tx: Connection, replay_id: str, moved: Sequence[MovedByReplay]) -> None:
    """These were replayed."""
    if moved:
        values = {
            "id": replay_id,
            "run_id": TextArray([run.run_id for run in moved]),
            "generation": IntArray([run.generation for run in moved]),
            "new_run_id": TextArray([run.new_run_id for run in moved]),
        }
        tx.exec_driver_sql(_MARK_MOVED, values)


def mark_skipped(tx: Connection, replay_id: str, skipped: Sequence[Skipped]) -> None:
    """These were not replayed."""
    if skipped:
        values = {
            "id": replay_id,
            "run_id": TextArray([run.run_id for run in skipped]),
            "reason": TextArray([run.reason for run in skipped]),
        }
        tx.exec_driver_sql(_MARK_SKIPPED, values)


def mark_settled(tx: Connection, replay_id: str, settled: Sequence[Followed]) -> None:
    """These have an outcome."""
    if settled:
        values = {
            "id": replay_id,
            "run_id": TextArray([run.run_id for run in settled]),
            "state": TextArray([run.state for run in settled]),
        }
        tx.exec_driver_sql(_MARK_SETTLED, values)


def save(
    tx: Connection,
    held: HeldReplay,
    *,
    moved: int = 0,
    is_begun: bool = False,
    changed_by: str | None = None,
) -> None:
    """Write state and counts. `moved` runs use up the rate; `is_begun`: it counts from now on."""
    values: dict[str, Any] = msgspec.structs.asdict(held)
    values |= {"moved": moved, "is_begun": is_begun, "burst_s": BURST_S, "changed_by": changed_by}
    tx.exec_driver_sql(_SAVE, values)


def forget_unstarted(tx: Connection, days: int) -> int:
    """Delete one plan that nobody has started for so long, with its set; how many: 1 or 0.

    What was planned, by whom and why is in the audit.
    """
    return int(tx.exec_driver_sql(_FORGET, {"days": days}).scalar_one())


def begin(tx: Connection, replay_id: str, *, author: str, reason: str) -> None:
    """Note who started it, and why."""
    tx.exec_driver_sql(_START, {"id": replay_id, "author": author, "reason": reason})
