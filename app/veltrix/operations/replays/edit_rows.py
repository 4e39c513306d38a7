"""Edited runs: their origins as they are read and locked, and what is kept of the edit."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import Id
from veltrix.operations.replays.patch import Origin
from veltrix.operations.runs import archive_rows
from veltrix.releases.subscription_rows import QUEUE_NOW
from veltrix.store.arrays import IntArray, TextArray


class NewEdit(msgspec.Struct, gc=False):
    """A run that was made by editing another: `patch` is the JSON text of the diff."""

    run_id: str
    origin_run_id: str
    origin_generation: int
    patch: str


class EditStory(msgspec.Struct):
    """How a run was made from its origin: by whom, why, and the patch between their payloads."""

    run: Id
    origin: Id
    origin_generation: int
    replay: Id
    author: str
    reason: str
    edited_at: datetime
    patch: msgspec.Raw


_COLUMNS = f"""r.id::text, r.generation, r.workflow, {QUEUE_NOW}, r.priority,
    (select count(*) from edits d where d.origin_run_id = r.id), r.event_id::text,
    e.source, e.sender_id, e.type, e.subject, e.time, e.datacontenttype, e.dataschema,
    e.data::text, e.data_binary is not null, e.extensions::text, e.traceparent"""  # noqa: S608 - put together from constants

_READ = f"""
select {_COLUMNS}
from unnest(%(id)s::uuid[], %(generation)s) as k(id, generation)
join runs r on r.id = k.id and r.generation = k.generation
cross join lateral (select * from events where id = r.event_id offset 0) e
where r.life < 2 and r.id = any(%(id)s::uuid[]) and r.state = 'failed' order by r.id
"""  # noqa: S608 - put together from constants

_LOCK = """
select r.id from unnest(%(id)s::uuid[], %(generation)s) as k(id, generation)
join runs r on r.id = k.id and r.generation = k.generation
where r.life < 2 and r.id = any(%(id)s::uuid[]) and r.state = 'failed'
order by r.id for no key update of r
"""

_TAGS = """
select r.id::text, r.generation, r.state,
    (select count(*) from edits e where e.origin_run_id = r.id)
from runs r where r.id = %(id)s
"""

_LOCK_ONE = "select id from runs where id = %(id)s for no key update"

_KEEP = """
insert into edits (run_id, origin_run_id, origin_generation, replay_id, patch, author, reason)
select run_id, origin, generation, %(replay_id)s, patch, %(author)s, %(reason)s
from unnest(%(run_id)s::uuid[], %(origin)s::uuid[], %(generation)s, %(patch)s::json[])
    as u(run_id, origin, generation, patch)
order by run_id
"""

_NOTE = """
insert into actions (run_id, action, generation, author, reason)
select id, 'edit', generation, %(author)s, %(reason)s
from unnest(%(id)s::uuid[], %(generation)s) as u(id, generation) order by id
"""

_STORY = """
select run_id::text, origin_run_id::text, origin_generation, replay_id::text, author, reason,
    edited_at, patch::text
from edits where run_id = %(id)s
"""

_NOW_MS = "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint"


def origins(
    tx: Connection, runs: Sequence[tuple[str, int]], *, is_locked: bool = False
) -> list[Origin]:
    """Those of these (run, generation) that are failed, with their events, by id.

    `is_locked`: locked first, so that nobody else replays or edits them before this transaction
    ends, and what is read is what then holds.
    """
    keys = {
        "id": TextArray([run_id for run_id, _ in runs]),
        "generation": IntArray([generation for _, generation in runs]),
    }
    if is_locked:
        tx.exec_driver_sql(_LOCK, keys)
    return [Origin(*row) for row in tx.exec_driver_sql(_READ, keys)]


def tag_of(tx: Connection, run_id: str, *, is_locked: bool = False) -> tuple[int, str, int] | None:
    """What changes whenever somebody acts on the run: generation, state, edits. None: no run.

    `is_locked`: and nobody else acts on it until this transaction ends.
    """
    if is_locked:
        tx.exec_driver_sql(_LOCK_ONE, {"id": run_id})
    row = tx.exec_driver_sql(_TAGS, {"id": run_id}).one_or_none()
    return None if row is None else (row[1], row[2], row[3])


def keep(
    tx: Connection, edits: Sequence[NewEdit], replay_id: str, *, author: str, reason: str
) -> None:
    """Link the new runs to their origins, with the diff, author and reason; archive the origins."""
    words = {"author": author, "reason": reason}
    made = {
        "replay_id": replay_id,
        "run_id": TextArray([edit.run_id for edit in edits]),
        "origin": TextArray([edit.origin_run_id for edit in edits]),
        "generation": IntArray([edit.origin_generation for edit in edits]),
        "patch": TextArray([edit.patch for edit in edits]),
    }
    tx.exec_driver_sql(_KEEP, made | words)
    # What was edited is dealt with: out of the failures that people look at, and still counted as
    # failed in the books.
    archive_rows.archive(tx, [edit.origin_run_id for edit in edits], reason=reason, author=author)
    tx.exec_driver_sql(_NOTE, {"id": made["origin"], "generation": made["generation"]} | words)


def find(tx: Connection, run_id: str) -> EditStory | None:
    """How this run was made; None: not by an edit."""
    row = tx.exec_driver_sql(_STORY, {"id": run_id}).one_or_none()
    if row is None:
        return None
    fields = dict(zip(EditStory.__struct_fields__, row, strict=True))
    return EditStory(**fields | {"patch": msgspec.Raw(fields["patch"].encode())})


def unix_ms(tx: Connection) -> int:
    """The database's clock, for ids of events that it is to hold."""
    return int(tx.exec_driver_sql(_NOW_MS).scalar_one())
