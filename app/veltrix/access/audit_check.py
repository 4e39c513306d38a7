"""The audit's chain, computed again from its rows (`veltrix.access.audit_rules`)."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
from sqlalchemy import Connection

from veltrix.access.audit_rules import Break, ChainRow, Walk, content_of

FETCH_ROWS = 50  # at a time: one may name 100,000 runs
SHOW_ROWS = 1_000

# Everything but id and hash in the order of migration 0012, as it is hashed.
_ROWS = """
select id, hash, timestamptz_send(at), author, action, target, target_id, reason, request::text,
    run_ids::text, runs, runs_digest, result::text, is_refused
from audit where id >= %(first)s order by id
"""
_BEFORE = "select id, hash from audit where id < %(id)s order by id desc limit 1"
_FIRST = "select id from audit where hash is not null order by id limit 1"
_LAST = "select last, hash from audit_numbers order by last desc limit 1"
_HASH = "select hash from audit where id = %(id)s"
_LEAST = -(2**63)


class ChainRefused(Exception):
    """The chain cannot be looked at so; the message says why and what would work."""


class Verified(msgspec.Struct, kw_only=True):
    """What was looked at, and the breaks that were found, in the order of the rows.

    Id and hash of the last row, kept elsewhere, show later whether anything up to it was changed.
    """

    rows: int
    last_id: int | None
    last_hash: str | None
    unhashed_rows: int  # from before migration 0012: in the hash of the first row that has one
    is_whole: bool
    is_complete: bool  # False: it was ended before the last row
    breaks: list[Break]
    more_rows: int  # that do not fit either


def verify(
    tx: Connection,
    *,
    since_id: int | None = None,
    expected: Sequence[tuple[int, str]] = (),
    show: Callable[[int], bool] = lambda _rows: True,
) -> Verified:
    """Look at every row from `since_id` on, in a snapshot; the row before it is believed.

    `expected` are ids with their hashes in hex. `show(rows)` is told now and then how far it is,
    and says whether to go on. Raises ChainRefused where the row before `since_id` has no hash.
    """
    walk, is_complete = _begin(tx, since_id), True
    for row in _rows(tx, _LEAST if since_id is None else since_id):
        walk.take(row)
        if walk.rows % SHOW_ROWS == 0 and not show(walk.rows):
            is_complete = False
            break
    if is_complete:
        _end(tx, walk, expected)
    breaks, more = walk.breaks()
    return Verified(
        rows=walk.rows,
        last_id=walk.last_id if walk.rows else None,
        last_hash=walk.last_hash.hex() if walk.rows else None,
        unhashed_rows=walk.unhashed_rows,
        is_whole=not breaks,
        is_complete=is_complete,
        breaks=breaks,
        more_rows=more,
    )


def count(tx: Connection, since_id: int | None = None) -> int:
    """About how many rows `verify` will look at."""
    last = tx.exec_driver_sql("select coalesce(max(last), 0) from audit_numbers").scalar_one()
    return max(0, int(last) - max(1, since_id or 1) + 1)


def _begin(tx: Connection, since_id: int | None) -> Walk:
    before = None
    if since_id is not None:
        before = tx.exec_driver_sql(_BEFORE, {"id": since_id}).one_or_none()
    if before is None:
        return Walk()
    if before.hash is None:
        first = tx.exec_driver_sql(_FIRST).scalar()
        from_where = "" if first is None else f", or begin at row {first + 1} or later"
        raise ChainRefused(
            f"row {before.id} has no hash of its own, so what follows it cannot be judged alone;"
            f" leave --since-id out{from_where}"
        )
    return Walk(before.id, bytes(before.hash))


def _rows(tx: Connection, first: int) -> Iterator[ChainRow]:
    options = {"stream_results": True, "max_row_buffer": FETCH_ROWS}
    with tx.exec_driver_sql(_ROWS, {"first": first}, execution_options=options) as found:
        for row_id, hash_, *values in found:
            yield ChainRow(row_id, None if hash_ is None else bytes(hash_), content_of(values))


def _end(tx: Connection, walk: Walk, expected: Sequence[tuple[int, str]]) -> None:
    last = tx.exec_driver_sql(_LAST).one_or_none()
    walk.end(*((walk.last_id, b"") if last is None else (last.last, bytes(last.hash))))
    for row_id, kept in expected:
        found = tx.exec_driver_sql(_HASH, {"id": row_id}).one_or_none()
        walk.expect(row_id, kept, None if found is None else bytes(found.hash or b""))
