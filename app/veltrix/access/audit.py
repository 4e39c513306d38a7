"""The audit: who did or asked what, why, to which runs, and what came of it. Rows are only added.

A row commits with the effect that it tells of; a refusal, which has none, by itself. A trigger
keeps rows from being changed or deleted, also by our own code. Another numbers them without gaps,
also where the server crashes, and chains them by hash (`access/audit_check.py`): who writes waits
until who wrote before has committed, so append last in a transaction.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection

from veltrix.domain.ids import Id
from veltrix.store.arrays import BoolArray, BytesArray, IntArray, TextArray
from veltrix.store.transactions import after_commit
from veltrix.telemetry import logger

RUN_IDS_MAX = 100_000
ROWS_MAX = 100_000
REQUEST_BYTES_MAX = 16_384  # of what was asked, in a list
_REPLACED = str.maketrans({"\x00": "\N{REPLACEMENT CHARACTER}"})

_log = logger("audit")


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """One action or refusal. `run_ids` is the exact set that it was done to, or asked for."""

    author: str
    action: str  # noun.verb, like run.replay
    reason: str
    target: str  # run, group, replay, key, session, dead_letter, api
    target_id: str | None = None
    request: dict[str, Any] = {}
    run_ids: list[str] = []
    result: dict[str, Any] = {}
    is_refused: bool = False


class AuditRow(msgspec.Struct, kw_only=True):
    """A row as it is read. Of a larger set than RUN_IDS_MAX there is its size and its digest."""

    id: int
    at: datetime
    author: str
    action: str
    target: str
    target_id: str | None
    reason: str
    runs: int
    runs_digest: str | None  # SHA-256 of the sorted ids, 16 bytes each: only of a larger set
    is_refused: bool
    hash: str | None  # SHA-256 of this row and of the hash before; None: older than the chain
    request: msgspec.Raw | None  # None where `redacted`, and in lists beyond REQUEST_BYTES_MAX
    result: msgspec.Raw
    redacted: bool = False


class AuditEntry(AuditRow, kw_only=True):
    """A row with its set, sorted; empty where there is the digest."""

    run_ids: list[Id]


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows; None leaves a condition out. `since` <= at < `until`."""

    author: str | None = None
    action: str | None = None
    target: str | None = None
    target_id: str | None = None
    is_refused: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


class AuditPage(msgspec.Struct):
    """Rows, newest first. `next` goes on from here, None: there are no more. It may be short."""

    items: list[AuditRow]
    next: str | None


_APPEND = """
insert into audit (author, action, target, target_id, reason, request, run_ids, runs, runs_digest,
    result, is_refused)
select author, action, target, target_id, reason, request::json, run_ids::uuid[], runs, runs_digest,
    result::json, is_refused
from unnest(%(author)s, %(action)s, %(target)s, %(target_id)s, %(reason)s, %(request)s, %(run_ids)s,
    %(runs)s, %(runs_digest)s, %(result)s, %(is_refused)s)
    with ordinality as k(author, action, target, target_id, reason, request, run_ids, runs,
        runs_digest, result, is_refused, number)
order by number
returning id, encode(hash, 'hex')
"""

_ROW = """id, at, author, action, target, target_id, reason, runs, encode(runs_digest, 'hex'),
    is_refused, encode(hash, 'hex'), {request}, result::text"""
_WHOLE = _ROW.format(request="request::text")
# A payload that was edited is part of what was asked: a list would be as long as all of them.
_SHORT = _ROW.format(
    request=f"case when octet_length(request::text) <= {REQUEST_BYTES_MAX} then request::text end"
)

# Looks at ROWS_MAX rows at most: what few rows match is found over several pages, each of them
# quick. The first column of an answer says where the looking ended.
_PAGE = f"""
with looked_at as materialized (
    select id, at, author, action, target, target_id, is_refused from audit
    where (%(cursor)s::bigint is null
            or (at, id) < (select c.at, c.id from audit c where c.id = %(cursor)s::bigint))
        and at >= coalesce(%(since)s::timestamptz, '-infinity')
        and at < coalesce(%(until)s::timestamptz, 'infinity')
    order by at desc, id desc limit %(rows_max)s
), found as materialized (
    select id, at from looked_at
    where (%(author)s::text is null or author = %(author)s::text)
        and (%(action)s::text is null or action = %(action)s::text)
        and (%(target)s::text is null or target = %(target)s::text)
        and (%(target_id)s::text is null or target_id = %(target_id)s::text)
        and (%(is_refused)s::boolean is null or is_refused = %(is_refused)s::boolean)
    order by at desc, id desc limit %(limit)s
), ended as (
    select case
        when (select count(*) from found) = %(limit)s
            then (select id from found order by at, id limit 1)
        when (select count(*) from looked_at) = %(rows_max)s
            then (select id from looked_at order by at, id limit 1)
    end as next
)
select ended.next, a.* from ended left join (
    select {_SHORT} from audit where id in (select id from found)
) a on true
order by a.at desc, a.id desc
"""  # noqa: S608 - put together from constants

_ONE = f"select {_WHOLE}, run_ids::text[] from audit where id = %(id)s"  # noqa: S608 - of constants

_LATER = f"""
select {_SHORT} from audit where id > %(id)s and id <> all(%(known)s) order by id limit %(limit)s
"""  # noqa: S608 - of constants


def append(tx: Connection, rows: Sequence[Audited]) -> None:
    """Write these rows, in the transaction of the effect; a log line of each after its commit."""
    if not rows:
        return
    sets = [sorted(set(row.run_ids)) for row in rows]
    kept = [ids if len(ids) <= RUN_IDS_MAX else [] for ids in sets]
    values = {
        "author": TextArray([storable(row.author) for row in rows]),
        "action": TextArray([row.action for row in rows]),
        "target": TextArray([row.target for row in rows]),
        "target_id": TextArray([row.target_id and storable(row.target_id) for row in rows]),
        "reason": TextArray([storable(row.reason) for row in rows]),
        "request": TextArray([_json(row.request) for row in rows]),
        "run_ids": TextArray(["{" + ",".join(ids) + "}" for ids in kept]),
        "runs": IntArray([len(ids) for ids in sets]),
        "runs_digest": BytesArray(
            [None if len(ids) <= RUN_IDS_MAX else digest_of(ids) for ids in sets]
        ),
        "result": TextArray([_json(row.result) for row in rows]),
        "is_refused": BoolArray([row.is_refused for row in rows]),
    }
    written = tx.exec_driver_sql(_APPEND, values).all()
    for row, (row_id, hash_), run_ids in zip(rows, written, sets, strict=True):
        after_commit(tx, partial(_tell, row, row_id, hash_, len(run_ids)))


def digest_of(run_ids: Sequence[str]) -> bytes:
    """What stands for a set of runs too large to be kept: SHA-256 of its ids, 16 bytes each."""
    return sha256(b"".join(UUID(run_id).bytes for run_id in sorted(run_ids))).digest()


def storable(text: str) -> str:
    """The text as PostgreSQL can keep it: what no text can have is shown as replaced."""
    return text.translate(_REPLACED).encode("utf-8", "replace").decode()


def page(
    tx: Connection,
    wanted: AuditFilter,
    *,
    cursor: int | None = None,
    limit: int = 50,
    rows_max: int = ROWS_MAX,
) -> AuditPage:
    """The newest `limit` rows that `wanted` describes, before the row `cursor` if given."""
    values = msgspec.structs.asdict(wanted)
    values |= {"cursor": cursor, "limit": limit, "rows_max": rows_max}
    found = tx.exec_driver_sql(_PAGE, values).all()
    rows = [AuditRow(**_fields(row[1:])) for row in found if row[1] is not None]
    after = found[0][0] if found else None
    return AuditPage(rows, None if after is None else str(after))


def entry(tx: Connection, row_id: int) -> AuditEntry | None:
    """The row with the exact set, or None if there is no such row."""
    found = tx.exec_driver_sql(_ONE, {"id": row_id}).one_or_none()
    if found is None:
        return None
    return AuditEntry(**_fields(found[:-1]), run_ids=found[-1])


def has(tx: Connection, row_id: int) -> bool:
    """Whether there is this row."""
    found = tx.exec_driver_sql(
        "select exists (select from audit where id = %(id)s)", {"id": row_id}
    )
    return bool(found.scalar_one())


def later(
    tx: Connection, row_id: int, known: Collection[int], limit: int = 1_000
) -> list[AuditRow]:
    """The rows beyond this one but those that are known, oldest first.

    A row may be committed after one that has a greater id: who follows looks behind it again.
    """
    keys = {"id": row_id, "known": IntArray(list(known)), "limit": limit}
    return [AuditRow(**_fields(row)) for row in tx.exec_driver_sql(_LATER, keys)]


def newest_ids(tx: Connection, limit: int) -> list[int]:
    """The ids of the last rows, newest first."""
    rows = tx.exec_driver_sql(
        "select id from audit order by id desc limit %(limit)s", {"limit": limit}
    )
    return list(rows.scalars())


def redacted(row: AuditRow) -> AuditRow:
    """The row without what was asked, which may hold payloads: for those who may not see them."""
    return msgspec.structs.replace(row, request=None, redacted=True)


def _fields(row: Sequence[Any]) -> dict[str, Any]:
    fields = dict(zip(AuditRow.__struct_fields__, row, strict=False))
    for name in ("request", "result"):
        fields[name] = None if fields[name] is None else msgspec.Raw(fields[name].encode())
    return fields


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _tell(row: Audited, row_id: int, hash_: str, runs: int) -> None:
    tell = _log.warning if row.is_refused else _log.info
    tell(
        "action.refused" if row.is_refused else "action.audited",
        audit_id=row_id,
        audit_hash=hash_,
        author=row.author,
        action=row.action,
        target=row.target,
        target_id=row.target_id,
        reason=row.reason,
        runs=runs,
        result=row.result,
    )
