"""Archiving a day: rows into files, read again and compared with the books, then the manifest.

Whoever dies on the way leaves a folder without a manifest, which the next call begins anew.
"""

from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path

import msgspec
from sqlalchemy import Engine

from veltrix.archive.day_rows import pages_of, read_ledger_id
from veltrix.archive.files import Show, go_on, lines_of, write_lines
from veltrix.archive.folder import (
    before_next,
    begin_part,
    finish_part,
    locked,
    parts_of,
    remove_leftovers,
)
from veltrix.archive.manifest import (
    BOOKS,
    FORMAT,
    TABLES,
    ArchivedFile,
    ArchivePart,
    ArchiveRefused,
    ArchiveStopped,
    Manifest,
    file_name,
)
from veltrix.archive.tally import compare, summed, tally
from veltrix.archive.verify import check_part
from veltrix.store.history.dropped_rows import COUNTS, Dropped, Relations, bounds_of, dropped_by
from veltrix.store.schema import revision_of
from veltrix.store.transactions import open_autocommit, transaction

_BOOKS_ROWS = 1_000
# Files that are large take long to reach the disk, between two statements.
_WAIT = "set local idle_in_transaction_session_timeout = 0"
_NOW = "select now()"


def write_part(
    engine: Engine,
    folder: Path,
    day: date,
    *,
    relations: Relations | None = None,
    drop_id: str | None = None,
    is_again: bool = False,
    show: Show = go_on,
) -> ArchivePart:
    """The rows of this day (UTC) are archived in a part of `folder`: on disk, read and compared.

    Of a drop (`drop_id`): `relations` are what left, nobody writes to them, and what the files have
    is what the books of this drop say. Done again, it is checked and given back. Without a drop it
    is a copy of the living tables, as of one moment, and a day has one unless `is_again`.

    `show(rows)` is told of rows as they are written, and of events and runs as they are compared.
    Raises ArchiveRefused, ArchiveStopped, and ArchiveBroken where files and books differ: nothing
    is archived then. Memory: a page of rows, and the books of a minute.
    """
    with locked(folder):
        parts = parts_of(folder)
        with open_autocommit(engine) as tx:
            ledger, schema = read_ledger_id(tx), revision_of(tx)
            now = tx.exec_driver_sql(_NOW).scalar_one()
        _refuse_others(parts, ledger, folder)
        if (done := _done(parts, day, drop_id, is_again=is_again)) is not None:
            check_part(done, show)
            return done
        path, part = begin_part(folder, parts, day)
        bounds, (number, before) = bounds_of(day), before_next(parts)
        try:
            files = _write_rows(engine, path, day, relations or Relations(), drop_id, show)
            books = _Books(engine, path, day, drop_id, show)
            files[BOOKS] = books.write()
        except ArchiveStopped:
            remove_leftovers(path)
            path.rmdir()
            raise
        manifest = Manifest(
            format=FORMAT,
            ledger=ledger,
            schema=schema or "",
            day=day,
            part=part,
            number=number,
            drop=drop_id,
            written_at=now,
            first_id=bounds.first,
            end_id=bounds.end,
            files=files,
            counts=books.counts,
            before=before,
        )
        return finish_part(path, manifest)


def _done(
    parts: list[ArchivePart], day: date, drop_id: str | None, *, is_again: bool
) -> ArchivePart | None:
    """The part of this drop; None: nothing of it is archived. A copy that is there is refused."""
    found = [p for p in parts if p.manifest.day == day and p.manifest.drop == drop_id]
    if not found or (drop_id is None and is_again):
        return None
    if drop_id is None:
        raise ArchiveRefused(
            f"{day} is copied already, as {found[-1].name}; --again makes another copy beside it"
        )
    return found[-1]


def _write_rows(
    engine: Engine, path: Path, day: date, relations: Relations, drop_id: str | None, show: Show
) -> dict[str, ArchivedFile]:
    """The files of the tables; no snapshot is held of what nobody writes to."""
    reading = transaction(engine, snapshot=True) if drop_id is None else open_autocommit(engine)
    with reading as tx:
        if drop_id is None:
            tx.exec_driver_sql(_WAIT)
        return {
            table: write_lines(
                path / file_name(table), pages_of(tx, table, relations, bounds_of(day)), show
            )
            for table in TABLES
        }


class _Books:
    """The books of a part: of a drop from the ledger, of a copy from its files; both compared."""

    def __init__(
        self, engine: Engine, path: Path, day: date, drop_id: str | None, show: Show
    ) -> None:
        self._engine, self._path, self._day, self._drop_id = engine, path, day, drop_id
        self._show = show
        self.counts = dict.fromkeys(COUNTS, 0)

    def write(self) -> ArchivedFile:
        """Raises ArchiveBroken where the ledger says something else than the files."""
        file = self._path / file_name(BOOKS)
        if self._drop_id is None:
            return write_lines(file, self._pages(self._tally()))
        with open_autocommit(self._engine) as tx:
            said = dropped_by(tx, self._drop_id, self._day)
            rows = compare(said, self._tally(), "the ledger's books of this drop say")
            return write_lines(file, self._pages(rows))

    def _tally(self) -> Iterator[Dropped]:
        events, runs = (
            lines_of(self._path / file_name(name), self._show) for name in ("events", "runs")
        )
        return tally(events, runs, bounds_of(self._day), self._drop_id)

    def _pages(self, rows: Iterator[Dropped]) -> Iterator[list[bytes]]:
        while page := list(islice(rows, _BOOKS_ROWS)):
            for name, number in summed(page).items():
                self.counts[name] += number
            yield [msgspec.json.encode(row) for row in page]


def _refuse_others(parts: list[ArchivePart], ledger: str, folder: Path) -> None:
    for part in parts:
        if part.manifest.ledger != ledger:
            raise ArchiveRefused(
                f"{str(folder)!r} is the archive of ledger {part.manifest.ledger}, and this is"
                f" {ledger}; name another folder"
            )
