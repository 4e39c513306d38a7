"""What a drop does to the ledger, step by step, in SQL. For the tables' owner.

A part is what `parts_of` calls so: a day of each of four tables, or all that was there before the
ledger was split. What stays of it is copied beside it and takes its place in milliseconds; the old
tables, which nobody sees from then on, are counted, archived and freed at leisure.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import first_id_of_minute, minute_of, runs_range
from veltrix.operations.retention.leaving_rows import JUDGED, judged_values
from veltrix.operations.retention.rules import PolicyMap
from veltrix.store.arrays import UuidArray
from veltrix.store.failure_deltas import LEAVE_GROUPS, RUN_GROUP
from veltrix.store.history.dropped_rows import Relations

FIRST_ID = "00000000-0000-0000-0000-000000000000"
KEYS = {"events": "id", "journal": "run_id", "failed_attempts": "run_id", "runs_ended": "id"}


class DropElsewhere(Exception):
    """Somebody else is at this drop."""


class LedgerPart(msgspec.Struct, frozen=True):
    """Ids from `first_id` on and before `end_id`, in tables that end with `name`.

    Minutes are those of what is in it: `first_minute` on, before `end_minute`.
    """

    name: str
    first_id: str
    end_id: str
    first_minute: int
    end_minute: int

    def table(self, whole: str) -> str:
        """The part of this table."""
        return f"{whole}_{self.name}"


class DropRow(LedgerPart, frozen=True):
    """A drop of a part, and how far it is: see the check of the table."""

    id: str
    state: str
    author: str
    archive: str | None
    events_left: int
    events_kept: int
    bytes: int
    began_at: datetime
    changed_at: datetime

    @property
    def low(self) -> str:
        """Where its range begins, in SQL."""
        return "minvalue" if self.first_id == FIRST_ID else f"'{self.first_id}'"

    def left(self, whole: str) -> str:
        """Where the part's rows are once others have taken its place."""
        return f"{whole}_{self.name}_left"

    def leaving(self) -> Relations:
        """What leaves of each table: what was left behind and is not in the part again."""
        of_run = "(left(o.run_id::text, 30) || '000000')::uuid"
        return Relations(
            events=self._leaving("events", "events", "id", "o.id"),
            runs=self._leaving("runs_ended", "runs_ended", "id", "o.id"),
            journal=self._leaving("journal", "events", "id", of_run),
            failed_attempts=self._leaving("failed_attempts", "events", "id", of_run),
        )

    def _leaving(self, whole: str, stays_in: str, key: str, of: str) -> str:
        if not self.events_kept:
            return self.left(whole)
        return (
            f"(select o.* from {self.left(whole)} o where not exists ("  # noqa: S608 - names of ours
            f"select from {self.table(stays_in)} k where k.{key} = {of}))"
        )


DROPS_LOCK = 0x56454C5452495802  # "VELTRIX" and 2, as bigint: nothing else locks this number
_LOCK = "select pg_try_advisory_lock(%(lock)s)"
_PARTS = """
select regexp_replace(p.part::text, '^.*events_', ''), p.low::text, p.high::text,
    (select min(id::text) from (
        select id from events where id >= p.low and id < p.high order by id limit 1) as oldest)
from parts_of('events'::regclass) p where p.high is not null order by p.low
"""
_DROP_COLUMNS = """part, first_id::text, end_id::text, first_minute, end_minute, id::text, state,
    author, archive, events_left, events_kept, bytes, began_at, changed_at"""
_UNFINISHED = f"select {_DROP_COLUMNS} from retention_drops where state <> 'freed'"  # noqa: S608 - of ours
_DROPS = f"""
select {_DROP_COLUMNS} from retention_drops order by began_at desc limit %(limit)s
"""  # noqa: S608 - of ours
_BEGIN = f"""
insert into retention_drops (id, part, first_id, end_id, first_minute, end_minute, state, author,
    archive)
values (gen_random_uuid(), %(name)s, %(first_id)s, %(end_id)s, %(first_minute)s, %(end_minute)s,
    'copying', %(author)s, %(archive)s)
returning {_DROP_COLUMNS}
"""  # noqa: S608 - of ours
_STEP = """
update retention_drops set state = %(to)s, changed_at = now(),
    events_left = events_left + %(left)s, bytes = greatest(bytes, %(bytes)s)
where id = %(id)s::uuid and state = %(of)s
"""
_KEPT = "update retention_drops set events_kept = %(kept)s where id = %(id)s::uuid"
_GIVE_UP = "delete from retention_drops where id = %(id)s::uuid and state = 'copying'"
_SIZE = """
select coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint
from unnest(%(names)s::text[]) as k(name)
"""
_MISPLACED = """
select array(
    select id::text from runs_open where id >= %(first_id)s::uuid and id < %(end_id)s::uuid
        and due_at is null order by id limit %(limit)s
)
"""
_MOVE = """
update runs set life = life_of(state)
where life = 0 and id = any(%(id)s::uuid[]) and state in ('succeeded', 'failed', 'cancelled')
"""
# What stays is copied as it is; of rows of one event all are, or none. A run whose event is not
# there, which the books of its minute say, stays with them.
_OF_EVENTS = """
events_kept as (
    insert into {events}_kept
    select o.* from stay cross join lateral (select * from {events} where id = stay.id offset 0) o
), runs_kept as (
    insert into {runs_ended}_kept
    select o.* from stay cross join lateral (
        select * from {runs_ended} where id > stay.id
            and id <= (left(stay.id::text, 30) || 'ffffff')::uuid offset 0) o
    {astray}
), journal_kept as (
    insert into {journal}_kept
    select o.* from stay cross join lateral (
        select * from {journal} where run_id > stay.id
            and run_id <= (left(stay.id::text, 30) || 'ffffff')::uuid offset 0) o
), attempts_kept as (
    insert into {failed_attempts}_kept
    select o.* from stay cross join lateral (
        select * from {failed_attempts} where run_id > stay.id
            and run_id <= (left(stay.id::text, 30) || 'ffffff')::uuid offset 0) o
)
select count(*) from stay
"""
_ASTRAY = """union all
    select o.* from {runs_ended} o where o.id >= %(first)s::uuid and o.id < %(last)s::uuid
        and o.minute not in (select minute from sealed)
        and not exists (select from stay where stay.id = o.event_id)"""
_COPY = "with {judged}, stay as materialized (select id from judged where stays is not null), "
_COPY_AGAIN = "with stay as materialized (select unnest(%(id)s::uuid[]) as id), "
_FORGET_COPY = """
delete from {table}_kept where {key} >= %(first_id)s::uuid and {key} <= %(last_id)s::uuid
"""
_TAKE_TOUCHED = """
with taken as (
    delete from retention_touched where ctid = any(array(
        select ctid from retention_touched limit %(limit)s))
    returning event_id
)
select array_agg(distinct event_id::text) from taken
"""
# Of events that are to leave: runs that are open, or failed and not dealt with any more.
_UNDONE = f"""
select array(
    select distinct r.event_id::text from runs r
    where r.life < 2 and r.id >= %(first_id)s::uuid and r.id < %(end_id)s::uuid
        and not (r.life = 1 and (r.archived_at is not null or exists (
            select from failure_groups g where g.id = {RUN_GROUP} and g.state = 'resolved')))
        and exists (select from {{events}} e where e.id = r.event_id)
        and not exists (select from {{events}}_kept k where k.id = r.event_id)
)
"""  # noqa: S608 - put together from constants
# Failed runs of events that leave go with them; they count as what they are.
_TAKE_FAILED = """
with gone as (
    delete from runs_failed r
    where r.id >= %(first_id)s::uuid and r.id < %(end_id)s::uuid
        and exists (select from {events}_left e where e.id = r.event_id) {unless_kept}
    returning r.*
), grouped as ({leave})
insert into {runs_ended}_left select * from gone
"""
_COUNT_KEPT = "select count(*) from {events}_kept"
_INDEXES = """
select case when k.oid is null then format('drop index %%s', i.indexrelid::regclass)
    else format('alter table %%s drop constraint %%I', i.indrelid::regclass, k.conname) end
from pg_index i left join pg_constraint k on k.conindid = i.indexrelid and k.conrelid = i.indrelid
where i.indrelid = to_regclass(%(table)s)
"""


def parts(tx: Connection) -> list[LedgerPart]:
    """The parts of the ledger that have events, the oldest first."""
    return [
        LedgerPart(name, low, high, minute_of(oldest), _end_minute(high))
        for name, low, high, oldest in tx.exec_driver_sql(_PARTS)
        if oldest is not None
    ]


def _end_minute(end_id: str) -> int:
    """The first minute of which nothing is in the part: it may end within one."""
    minute = minute_of(end_id)
    return minute if first_id_of_minute(minute) == end_id else minute + 1


def lock_drops(tx: Connection) -> bool:
    """Keep other drops away as long as this session lives; False: one is at work."""
    return bool(tx.exec_driver_sql(_LOCK, {"lock": DROPS_LOCK}).scalar_one())


def unfinished(tx: Connection) -> DropRow | None:
    """The drop that somebody began and nobody ended."""
    row = tx.exec_driver_sql(_UNFINISHED).one_or_none()
    return None if row is None else DropRow(*row)


def latest(tx: Connection, limit: int) -> list[DropRow]:
    """The latest drops, the newest first."""
    return [DropRow(*row) for row in tx.exec_driver_sql(_DROPS, {"limit": limit})]


def begin(tx: Connection, part: LedgerPart, author: str, archive: str | None) -> DropRow:
    """Write down that a drop of this part begins; nothing of it has left. One at a time."""
    keys = msgspec.structs.asdict(part) | {"author": author, "archive": archive}
    return DropRow(*tx.exec_driver_sql(_BEGIN, keys).one())


def step(tx: Connection, drop: DropRow, to: str, *, left: int = 0, size: int = 0) -> None:
    """The drop has got on to this state, in this transaction. Raises where it was elsewhere."""
    keys = {"id": drop.id, "of": drop.state, "to": to, "left": left, "bytes": size}
    if tx.exec_driver_sql(_STEP, keys).rowcount != 1:
        raise DropElsewhere(f"the drop of part {drop.name} is not {drop.state} any more")


def kept(tx: Connection, drop: DropRow, events: int) -> None:
    """So many of its events stay."""
    tx.exec_driver_sql(_KEPT, {"id": drop.id, "kept": events})


def give_up(tx: Connection, drop: DropRow) -> None:
    """Forget a drop that has not let anything go."""
    tx.exec_driver_sql(_GIVE_UP, {"id": drop.id})


def size(tx: Connection, names: Sequence[str]) -> int:
    """Bytes of these tables on disk, with all that belongs to them."""
    return int(tx.exec_driver_sql(_SIZE, {"names": list(names)}).scalar_one())


def place_ended(tx: Connection, part: LedgerPart, limit: int) -> int:
    """Put ended runs of the part that lie among the open ones where they belong; how many."""
    keys = {"first_id": part.first_id, "end_id": part.end_id, "limit": limit}
    found = tx.exec_driver_sql(_MISPLACED, keys).scalar_one()
    if found:
        tx.exec_driver_sql(_MOVE, {"id": UuidArray(found)})
    return len(found)


def copy(
    tx: Connection, part: LedgerPart, policies: PolicyMap, now: datetime, minute: int, end: int
) -> int:
    """Copy what stays of the events of these minutes; how many events."""
    statement = (_COPY.format(judged=JUDGED) + _OF_EVENTS).format(
        astray=_ASTRAY.format(**_names(part)), **_names(part)
    )
    values = judged_values(policies, now, minute, end)
    return int(tx.exec_driver_sql(statement, values).scalar_one())


def copy_again(tx: Connection, part: LedgerPart, event_ids: Sequence[str]) -> None:
    """These events stay, whatever was copied of them before."""
    for event_id in event_ids:
        first, last = runs_range(event_id)
        for whole, key in KEYS.items():
            statement = _FORGET_COPY.format(table=part.table(whole), key=key)
            tx.exec_driver_sql(statement, {"first_id": first, "last_id": last})
    statement = (_COPY_AGAIN + _OF_EVENTS).format(astray="", **_names(part))
    tx.exec_driver_sql(statement, {"id": UuidArray(event_ids)})


def take_touched(tx: Connection, limit: int) -> list[str]:
    """Events that changed since the copying began, some of them; they are forgotten here."""
    return tx.exec_driver_sql(_TAKE_TOUCHED, {"limit": limit}).scalar_one() or []


def undone(tx: Connection, part: LedgerPart) -> list[str]:
    """Events that are not copied, and of which a run is open, or failed and not dealt with."""
    keys = {"first_id": part.first_id, "end_id": part.end_id}
    found: list[str] = tx.exec_driver_sql(_UNDONE.format(**_names(part)), keys).scalar_one()
    return found


def count_kept(tx: Connection, part: LedgerPart) -> int:
    """How many events were copied."""
    return int(tx.exec_driver_sql(_COUNT_KEPT.format(**_names(part))).scalar_one())


def take_failed(tx: Connection, drop: DropRow, *, has_rows: bool) -> None:
    """Failed runs of what leaves are behind with it, out of the swapped table of failed ones.

    `has_rows`: something of the part stays.
    """
    unless_kept = (
        f"and not exists (select from {drop.table('events')} k where k.id = r.event_id)"
        if has_rows
        else ""
    )
    leave = LEAVE_GROUPS.format(rows="gone")
    statement = _TAKE_FAILED.format(unless_kept=unless_kept, leave=leave, **_names(drop))
    tx.exec_driver_sql(statement, {"first_id": drop.first_id, "end_id": drop.end_id})


def freeing(tx: Connection, table: str) -> list[str]:
    """The statements that free this table, each a part of its files; none: it is gone."""
    if not tx.exec_driver_sql("select to_regclass(%(table)s)", {"table": table}).scalar_one():
        return []
    return [*tx.exec_driver_sql(_INDEXES, {"table": table}).scalars(), f"drop table {table}"]


def _names(part: LedgerPart) -> dict[str, str]:
    return {whole: part.table(whole) for whole in KEYS}
