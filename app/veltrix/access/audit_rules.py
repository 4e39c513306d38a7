"""The chain of the audit: what a row's hash is made of, and how rows that do not fit came to be so.

A row's hash is SHA-256 of the hash before it, its id and its other columns. Migration 0012 says the
same in SQL for the trigger that writes it; the two are written apart, so that neither is believed.
Rows from before that migration have no hash of their own: they are in that of the first row that
has one.

Who owns the tables can write a whole chain anew. Who has kept the id and hash of a row sees that.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import product
from typing import Any

import msgspec

BEGIN = bytes(32)  # what the first row follows
BREAKS_MAX = 20  # that are described; the others are counted
BEHIND_ROWS = 16  # so many that were put in one after another are known as such
MOVED_IDS = 100  # so far a row is looked for from where it stands
KEPT_ROWS, KEPT_BYTES = 12, 65_536  # of rows that do not fit, to find out where they were
_NONE = (-1).to_bytes(4, "big", signed=True)

_SAYS = {
    "changed": "changed afterwards",
    "missing": "taken away",
    "put_in": "put in, and not by the platform",
    "moved": "moved: the order is another than that of writing",
    "cut_off": "cut off from the end",
    "rewritten": "written anew, or others before it were, and the chain after that",
    "before": "not written after the rows before it as they are now, which have no hash of their"
    " own: one of them, or this one, was changed, taken away or put in",
}


class Break(msgspec.Struct, frozen=True):
    """A place where the chain breaks: the first and the last row it is about, how, and in words."""

    kind: str  # changed, missing, put_in, moved, cut_off, rewritten or before
    id: int
    last_id: int
    says: str


class ChainRow(msgspec.Struct, frozen=True):
    """A row of the audit: `content` is every column but id and hash."""

    id: int
    hash: bytes | None
    content: bytes

    def follows(self, previous: bytes, row_id: int | None = None) -> bool:
        """Its hash is the one of this content, with this id, after `previous`."""
        return self.hash == link(previous, self.id if row_id is None else row_id, self.content)


class _Doubt(msgspec.Struct, frozen=True):
    """A row that does not follow the one before it, whose id and hash are here, too."""

    row: ChainRow
    before_id: int
    previous: bytes
    is_first: bool  # of the rows that have hashes, with others before it


class _Added(msgspec.Struct, frozen=True):
    """Rows that the one behind them does not know: it follows row `after_id`."""

    after_id: int
    ids: list[int]


def content_of(values: Sequence[Any]) -> bytes:
    """These values of a row's columns as they are hashed: a length before each, -1 for none."""
    return b"".join(_field(_bytes_of(value)) for value in values)


def link(previous: bytes, row_id: int, content: bytes) -> bytes:
    """The hash of the row with this id and content, after a row with the hash `previous`."""
    return sha256(previous + _field(row_id.to_bytes(8, "big", signed=True)) + content).digest()


def break_of(kind: str, first_id: int, last_id: int) -> Break:
    """A break with its words."""
    is_one = first_id == last_id
    rows = f"row {first_id:,} was" if is_one else f"rows {first_id:,} to {last_id:,} were"
    return Break(kind, first_id, last_id, f"{rows} {_SAYS[kind]}")


def _field(value: bytes | None) -> bytes:
    return _NONE if value is None else len(value).to_bytes(4, "big") + value


def _bytes_of(value: Any) -> bytes | None:
    match value:
        case None:
            return None
        case bool():
            return b"\x01" if value else b"\x00"
        case int():
            return value.to_bytes(4, "big", signed=True)
        case str():
            return value.encode()
    return bytes(value)


class Walk:
    """Goes along the rows in the order of their ids, and remembers what does not follow.

    `previous` is the hash that the first row must follow, that of row `before_id`; None: the rows
    are looked at from the first on.
    """

    def __init__(self, before_id: int = 0, previous: bytes | None = None) -> None:
        self.rows = self.unhashed_rows = 0
        self.last_id, self.last_hash = before_id, previous or BEGIN
        self._is_begun = previous is not None
        self._meant = self.last_hash  # what the last row's hash should have been
        self._behind = deque([(before_id, self.last_hash)], maxlen=BEHIND_ROWS + 1)
        self._doubts: list[_Doubt] = []
        self._added: list[_Added] = []
        self._breaks: list[Break] = []
        self._more = 0

    def take(self, row: ChainRow) -> None:
        """Look at the next row."""
        self.rows += 1
        meant = row.hash
        if row.hash is None and not self._is_begun:
            self.unhashed_rows += 1
            meant = link(self.last_hash, row.id, row.content)
        elif not row.follows(self.last_hash) and not self._follows_another(row):
            self._doubt(row)
            meant = link(self.last_hash, row.id, row.content)
        self._is_begun = self._is_begun or row.hash is not None
        self._meant = meant or BEGIN
        self.last_hash = row.hash or self._meant
        self.last_id = row.id
        self._behind.append((row.id, self.last_hash))

    def end(self, last: int, last_hash: bytes) -> None:
        """There is no further row; the platform wrote row `last`, with this hash, last."""
        if self.last_id > last:
            self._doubts = [one for one in self._doubts if one.row.id <= last]
            self._breaks.append(break_of("put_in", last + 1, self.last_id))
        elif self.last_id < last:
            self._breaks.append(break_of("cut_off", self.last_id + 1, last))
        elif self.last_hash != last_hash and not (self._doubts or self._added):
            self._breaks.append(break_of("rewritten", last, last))

    def expect(self, row_id: int, kept: str, found: bytes | None) -> None:
        """The hash `kept` of this row, in hex, was kept elsewhere; `found`: None if it is gone."""
        if found is None and row_id > self.last_id:
            self._breaks.append(break_of("cut_off", self.last_id + 1, row_id))
        elif found is None:
            self._breaks.append(break_of("missing", row_id, row_id))
        elif found.hex() != kept.lower():
            self._breaks.append(break_of("rewritten", row_id, row_id))

    def breaks(self) -> tuple[list[Break], int]:
        """The breaks in the order of the rows, and how many rows more do not fit."""
        found = [*explained(self._doubts, self._added), *self._breaks]
        found = list(_joined(sorted(set(found), key=lambda one: (one.id, one.kind))))
        return found[:BREAKS_MAX], self._more + max(0, len(found) - BREAKS_MAX)

    def _follows_another(self, row: ChainRow) -> bool:
        """Whether it follows what the last row was, or one before it, and so not those between."""
        if row.follows(self._meant):
            return True
        behind = list(self._behind)
        for number in range(len(behind) - 2, -1, -1):
            if row.follows(behind[number][1]):
                between = [row_id for row_id, _ in behind[number + 1 :]]
                self._added.append(_Added(behind[number][0], between))
                return True
        return False

    def _doubt(self, row: ChainRow) -> None:
        if len(self._doubts) >= BREAKS_MAX:
            self._more += 1
            return
        if len(self._doubts) >= KEPT_ROWS or len(row.content) > KEPT_BYTES:
            row = msgspec.structs.replace(row, content=b"")
        is_first = not self._is_begun and self.unhashed_rows > 0
        self._doubts.append(_Doubt(row, self.last_id, self.last_hash, is_first))


def explained(doubts: Sequence[_Doubt], added: Sequence[_Added]) -> Iterator[Break]:
    """How each of these rows came not to fit; `added` may have been put in, or only moved."""
    written = {doubt.row.id: _written_as(doubt, doubts) for doubt in doubts}
    taken = {as_id for as_id in written.values() if as_id is not None}
    moved = {row_id for row_id, as_id in written.items() if as_id not in {None, row_id}}
    skipped: set[int] = set()
    for one in added:
        ids = [row_id for row_id in one.ids if written.get(row_id) is None]
        if ids and one.after_id not in moved:
            skipped.update(ids)
            yield break_of("put_in", ids[0], ids[-1])
    yield from (break_of("moved", row_id, row_id) for row_id in moved)
    for doubt in doubts:
        if written[doubt.row.id] is None and doubt.row.id not in skipped:
            yield _unplaced(doubt, taken, written.get(doubt.row.id + 1))


def _unplaced(doubt: _Doubt, taken: set[int], next_as: int | None) -> Break:
    """Of a row that was written nowhere as it is; the next one was written as `next_as`."""
    row_id = doubt.row.id
    if doubt.is_first:
        return break_of("before", row_id, row_id)
    if row_id > doubt.before_id + 1:
        return break_of("missing", doubt.before_id + 1, row_id - 1)
    if row_id in taken:
        return break_of("put_in", row_id, row_id)
    if next_as is not None and next_as > row_id + 1:  # those behind were given lower ids
        return break_of("missing", row_id, next_as - 2)
    return break_of("changed", row_id, row_id)


def _written_as(doubt: _Doubt, doubts: Sequence[_Doubt]) -> int | None:
    """The id that this row's content was written with, its own if only others moved, or None."""
    row = doubt.row
    if not row.content:
        return None
    for other in doubts:  # contents that were exchanged, under the hashes they found there
        if other is not doubt and msgspec.structs.replace(other.row, content=row.content).follows(
            other.previous
        ):
            return other.row.id
    hashes = {hash_ for one in doubts for hash_ in (one.previous, one.row.hash) if hash_}
    for previous, row_id in product(hashes, [one.row.id for one in doubts]):
        if row.follows(previous, row_id):
            return row_id
    for row_id in range(max(1, row.id - MOVED_IDS), row.id + MOVED_IDS + 1):
        if row.follows(doubt.previous, row_id):
            return row_id
    return None


def _joined(breaks: Sequence[Break]) -> Iterator[Break]:
    """Breaks of one kind, one right behind the other, as one."""
    last: Break | None = None
    for one in breaks:
        if last is not None and one.kind == last.kind and one.id <= last.last_id + 1:
            last = break_of(last.kind, last.id, max(last.last_id, one.last_id))
            continue
        if last is not None:
            yield last
        last = one
    if last is not None:
        yield last
