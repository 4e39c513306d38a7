"""The books of a part, counted from its files: what an archive has, beside what the ledger says."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from hashlib import sha256
from heapq import merge
from itertools import groupby, zip_longest
from typing import Any

import msgspec

from veltrix.archive.manifest import ArchiveBroken
from veltrix.domain.events import CANARY_ACCOUNT
from veltrix.domain.ids import minute_of
from veltrix.store.history.dropped_rows import COUNTS, Dropped, IdBounds


class _EventLine(msgspec.Struct):
    id: str
    account_id: int
    minute: int
    unrouted: bool
    raw: bytes = b""  # the id


class _RunLine(msgspec.Struct):
    id: str
    account_id: int
    minute: int
    state: str
    raw: bytes = b""


def tally(
    events: Iterable[bytes], runs: Iterable[bytes], bounds: IdBounds, drop_id: str | None
) -> Iterator[Dropped]:
    """Counts and digest of each minute and account in these lines, in that order.

    As `store.history.dropped_rows` has them in SQL. One minute is in memory. Raises ArchiveBroken
    for rows that are out of order or bounds, or open although they were dropped.
    """
    ordered = merge(
        _checked(events, _EventLine, "events", bounds),
        _checked(runs, _RunLine, "runs", bounds),
        key=lambda line: (line.minute, isinstance(line, _RunLine)),
    )
    for minute, lines in groupby(ordered, key=lambda line: line.minute):
        counted: dict[int, _Count] = defaultdict(_Count)
        for line in lines:
            if line.account_id != CANARY_ACCOUNT:
                counted[line.account_id].take(line)
        for account_id in sorted(counted):
            found = counted[account_id].told(minute, account_id)
            if drop_id is not None and found.started != sum(_settled(found)):
                raise ArchiveBroken(f"runs of minute {minute} are open, and were dropped")
            yield found


def compare(said: Iterable[Dropped], found: Iterable[Dropped], who: str) -> Iterator[Dropped]:
    """Each row of both, which must be the same. Raises ArchiveBroken at the first that is not."""
    for one, other in zip_longest(said, found):
        if one != other:
            raise ArchiveBroken(_difference(one, other, who))
        yield one


def summed(rows: Iterable[Dropped]) -> dict[str, int]:
    """The sum of each count."""
    sums = dict.fromkeys(COUNTS, 0)
    for row in rows:
        for name in COUNTS:
            sums[name] += getattr(row, name)
    return sums


class _Count:
    """One account in one minute."""

    def __init__(self) -> None:
        self._ids = sha256()
        self._counts = dict.fromkeys(COUNTS, 0)

    def take(self, line: _EventLine | _RunLine) -> None:
        self._ids.update(line.raw)
        if isinstance(line, _EventLine):
            names = ("accepted", "unrouted" if line.unrouted else "routed")
        else:
            names = ("started", line.state)
        for name in names:
            if name in self._counts:
                self._counts[name] += 1

    def told(self, minute: int, account_id: int) -> Dropped:
        return Dropped(minute, account_id, **self._counts, digest=self._ids.digest())


def _checked(
    lines: Iterable[bytes], type_: type[Any], table: str, bounds: IdBounds
) -> Iterator[Any]:
    decode = msgspec.json.Decoder(type_).decode
    last = ""
    for line in lines:
        try:
            row = decode(line)
            row.raw, minute = bytes.fromhex(row.id.replace("-", "")), minute_of(row.id)
        except (msgspec.DecodeError, ValueError) as error:
            raise ArchiveBroken(f"{table} has a line that is no row: {error}") from None
        if not (last < row.id and bounds.first <= row.id < bounds.end):
            raise ArchiveBroken(f"{table}: {row.id} is out of order or of another day")
        if row.minute != minute:
            raise ArchiveBroken(f"{table}: {row.id} is filed under minute {row.minute}")
        last = row.id
        yield row


def _settled(row: Dropped) -> tuple[int, int, int]:
    return row.succeeded, row.failed, row.cancelled


def _difference(said: Dropped | None, found: Dropped | None, who: str) -> str:
    row = said or found
    assert row is not None
    where = f"account {row.account_id}, minute {row.minute}"
    if said is None or (found is not None and _place(found) < _place(said)):
        assert found is not None
        return f"account {found.account_id}, minute {found.minute}: {who} nothing of these rows"
    if found is None or _place(found) > _place(said):
        return f"{where}: {who} rows that are not in the files"
    wrong = [name for name in (*COUNTS, "digest") if getattr(said, name) != getattr(found, name)]
    numbers = [
        f"{name} {getattr(said, name):,}, the files have {getattr(found, name):,}"
        for name in wrong
        if name != "digest"
    ]
    return f"{where}: {who} {'; '.join(numbers) or 'other ids than the files have'}"


def _place(row: Dropped) -> tuple[int, int]:
    return row.minute, row.account_id
