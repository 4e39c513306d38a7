"""Dead letters: rows that someone can see, count and export; never a message left in a queue."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.dead_letters import DeadLetter
from veltrix.domain.text import storable_text
from veltrix.store.arrays import BytesArray, IntArray, TextArray
from veltrix.store.failure_deltas import LETTER_GROUP, LETTER_KIND

__all__ = ["DeadLetter", "StoredLetter", "insert", "mark_seen", "read"]

_TEXT_CHARS_MAX = 4_000


class StoredLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as it is kept. `headers` is JSON text."""

    id: int
    queue: str
    reason: str
    detail: str | None
    content_type: str | None
    headers: str
    body: bytes
    run_ids: list[str]
    received_at: datetime
    seen_at: datetime | None
    seen_by: str | None


# Counted beside the books, on the account of nobody (0).
_INSERT = f"""
with added as (
    insert into dead_letters (message_key, queue, reason, detail, content_type, headers, body,
        run_ids)
    select u.key, u.queue, u.reason, u.detail, u.content_type, u.headers, u.body,
        string_to_array(u.run_ids, ',')::uuid[]
    from unnest(%(key)s, %(queue)s, %(reason)s, %(detail)s, %(content_type)s, %(headers)s::json[],
                %(body)s, %(run_ids)s)
        as u(key, queue, reason, detail, content_type, headers, body, run_ids)
    order by u.key
    on conflict (message_key) where message_key is not null do nothing
    returning message_key, queue, reason
), grouped as (
    insert into failure_deltas (group_id, kind, queue, reason, count, seen)
    select {LETTER_GROUP}, {LETTER_KIND}, queue, reason, count(*), count(*)
    from added group by queue, reason
), counted as (
    insert into counter_deltas (account_id, minute, dead_letters)
    select 0, floor(extract(epoch from now()) / 60)::int, count(*) from added having count(*) > 0
)
select message_key from added
"""  # noqa: S608 - put together from constants

_READ = """
select id, queue, reason, detail, content_type, headers::text, body, run_ids::text[], received_at,
    seen_at, seen_by
from dead_letters
where id > %(after)s and (not %(unseen_only)s or seen_at is null)
order by id limit %(limit)s
"""

_MARK_SEEN = f"""
with m as (
    select id from dead_letters where id = any(%(id)s) and seen_at is null order by id for update
), marked as (
    update dead_letters d set seen_at = now(), seen_by = %(by)s from m where d.id = m.id
    returning d.queue, d.reason
), ungrouped as (
    insert into failure_deltas (group_id, kind, queue, reason, count)
    select {LETTER_GROUP}, {LETTER_KIND}, queue, reason, -count(*)
    from marked group by queue, reason
)
select count(*) from marked
"""  # noqa: S608 - put together from constants


def insert(tx: Connection, letters: Sequence[DeadLetter]) -> int:
    """Each letter is a row afterwards, copies of one message as one row; how many are new.

    Changes no run. Raises what `transactions.is_bad_value` recognises if headers are not JSON.
    """
    seen: set[str] = set()
    keyed, unkeyed = [], []
    for letter in letters:
        key = letter.message_key
        if key is not None and key not in seen:
            seen.add(key)
            keyed.append(letter)
        elif key is None or not letter.is_copy_possible:
            unkeyed.append(letter)
    new = _insert(tx, keyed, [letter.message_key for letter in keyed]) if keyed else set()
    # The key was there before, but the broker says that this message was not.
    unkeyed += [x for x in keyed if not x.is_copy_possible and x.message_key not in new]
    if unkeyed:
        _insert(tx, unkeyed, [None] * len(unkeyed))
    return len(new) + len(unkeyed)


def _insert(
    tx: Connection, letters: Sequence[DeadLetter], keys: Sequence[str | None]
) -> set[str | None]:
    rows = tx.exec_driver_sql(
        _INSERT,
        {
            "key": TextArray(keys),
            "queue": TextArray([storable_text(x.queue, _TEXT_CHARS_MAX) for x in letters]),
            "reason": TextArray([storable_text(x.reason, _TEXT_CHARS_MAX) for x in letters]),
            "detail": TextArray([_storable(x.detail) for x in letters]),
            "content_type": TextArray([_storable(x.content_type) for x in letters]),
            "headers": TextArray([x.headers for x in letters]),
            "body": BytesArray([x.body for x in letters]),
            "run_ids": TextArray([",".join(x.run_ids) for x in letters]),
        },
    )
    return {row[0] for row in rows}


def _storable(text: str | None) -> str | None:
    return None if text is None else storable_text(text, _TEXT_CHARS_MAX)


def read(
    tx: Connection, *, after: int = 0, limit: int = 100, unseen_only: bool = False
) -> list[StoredLetter]:
    """Letters with an id above `after`, in the order they arrived."""
    rows = tx.exec_driver_sql(_READ, {"after": after, "limit": limit, "unseen_only": unseen_only})
    fields = StoredLetter.__struct_fields__
    return [StoredLetter(**dict(zip(fields, row, strict=True))) for row in rows]


def mark_seen(tx: Connection, ids: Sequence[int], by: str) -> int:
    """Somebody looked at these; how many nobody had looked at before."""
    return int(tx.exec_driver_sql(_MARK_SEEN, {"id": IntArray(ids), "by": by}).scalar_one())
