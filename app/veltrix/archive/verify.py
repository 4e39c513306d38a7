"""Whether an archive is what was written: digests, counts, the chain, and the ledger's books."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from sqlalchemy import Connection

from veltrix.archive.day_rows import read_ledger_id
from veltrix.archive.files import Show, check_bytes, go_on, lines_of
from veltrix.archive.folder import parts_of
from veltrix.archive.manifest import (
    BOOKS,
    TABLES,
    ArchiveBroken,
    ArchivePart,
    ArchiveRefused,
    ArchiveStopped,
    part_name,
)
from veltrix.archive.tally import compare, summed, tally
from veltrix.store.history.dropped_rows import Dropped, IdBounds, dropped_by, drops_since


class ArchiveFinding(msgspec.Struct, frozen=True):
    """What is wrong, and with which part."""

    part: str
    says: str


class VerifiedArchive(msgspec.Struct, frozen=True, kw_only=True):
    """What was looked at and found; `last` is the last part, `last_sha256` that of its manifest.

    These two, kept elsewhere, show later that no part was cut off the end. `begins_after`: the part
    before the first one, which is not here. Not `is_complete`: it was stopped.
    """

    parts: int
    rows: int
    findings: list[ArchiveFinding]
    begins_after: str | None
    last: str | None
    last_sha256: str | None
    is_ledger_asked: bool
    is_complete: bool


def verify_archive(
    folder: Path,
    *,
    parts: Sequence[ArchivePart] | None = None,
    ledger: Connection | None = None,
    show: Show = go_on,
) -> VerifiedArchive:
    """Look at these parts (all), at the chain of all, and at the ledger's books if it is given.

    `show(rows)` is told of rows as they are read; it says whether to go on.
    """
    all_parts = parts_of(folder)
    looked_at = all_parts if parts is None else parts
    findings = list(_of_chain(all_parts))
    rows, is_complete = 0, True
    for part in looked_at:
        try:
            rows += check_part(part, show)
            if ledger is not None:
                check_against_ledger(part, ledger)
        except ArchiveBroken as error:
            findings.append(ArchiveFinding(part.name, str(error)))
        except ArchiveStopped:
            is_complete = False
            break
    if ledger is not None and all_parts:
        findings += _missing(all_parts, ledger)
    first = all_parts[0].manifest if all_parts else None
    return VerifiedArchive(
        parts=len(looked_at),
        rows=rows,
        findings=findings,
        begins_after=first.before.part if first and first.before else None,
        last=all_parts[-1].name if all_parts else None,
        last_sha256=all_parts[-1].sha256 if all_parts else None,
        is_ledger_asked=ledger is not None,
        is_complete=is_complete,
    )


def check_part(part: ArchivePart, show: Show = go_on) -> int:
    """The files are what the manifest says, and the books of the part; how many rows they have.

    Raises ArchiveBroken at the first difference.
    """
    manifest = part.manifest
    for table in (*TABLES, BOOKS):
        check_bytes(part.file(table), manifest.files[table])
    read = {table: _Counted(part.file(table), show) for table in (*TABLES, BOOKS)}
    bounds = IdBounds(manifest.first_id, manifest.end_id)
    found = tally(read["events"], read["runs"], bounds, manifest.drop)
    counts = summed(compare(_books(read[BOOKS]), found, "the part's books say"))
    if counts != manifest.counts:
        raise ArchiveBroken("its manifest has other counts than its books")
    for table in ("journal", "failed_attempts"):
        for _ in read[table]:
            pass
    for table, lines in read.items():
        if lines.rows != manifest.files[table].rows:
            raise ArchiveBroken(
                f"{table} has {lines.rows:,} rows, and {manifest.files[table].rows:,} were written"
            )
    return sum(read[table].rows for table in TABLES)


def check_against_ledger(part: ArchivePart, tx: Connection) -> None:
    """The ledger's books of the drop are those of the part. A copy has none there.

    Raises ArchiveBroken where they differ, ArchiveRefused where it is another ledger.
    """
    manifest = part.manifest
    if (ledger := read_ledger_id(tx)) != manifest.ledger:
        raise ArchiveRefused(
            f"{part.name} is of ledger {manifest.ledger}, and this database is {ledger}; name the"
            " right one, or leave --ledger out"
        )
    if manifest.drop is not None:
        said = dropped_by(tx, manifest.drop, manifest.day)
        for _ in compare(said, _books(lines_of(part.file(BOOKS))), "the ledger's books say"):
            pass


class _Counted:
    """The lines of a file, counted as they are read."""

    def __init__(self, path: Path, show: Show) -> None:
        self._path, self._show, self.rows = path, show, 0

    def __iter__(self) -> Iterator[bytes]:
        for line in lines_of(self._path, self._show):
            self.rows += 1
            yield line


def _books(lines: "_Counted | Iterator[bytes]") -> Iterator[Dropped]:
    decode = msgspec.json.Decoder(Dropped).decode
    for line in lines:
        try:
            yield decode(line)
        except msgspec.DecodeError as error:
            raise ArchiveBroken(f"its books have a line that is no row: {error}") from None


def _of_chain(parts: Sequence[ArchivePart]) -> Iterator[ArchiveFinding]:
    before: ArchivePart | None = None
    for part in parts:
        manifest = part.manifest
        if part.name != part_name(manifest.day, manifest.part):
            is_named = part_name(manifest.day, manifest.part)
            yield ArchiveFinding(part.name, f"its manifest is that of {is_named}")
        if before is not None:
            link = manifest.before
            if manifest.ledger != before.manifest.ledger:
                yield ArchiveFinding(part.name, f"it is of another ledger than {before.name}")
            if link is None or manifest.number != before.manifest.number + 1:
                missing = "the first part" if link is None else f"one that follows {link.part}"
                yield ArchiveFinding(part.name, f"it is {missing}, which {before.name} is not")
            elif link.sha256 != before.sha256:
                yield ArchiveFinding(
                    before.name, f"its manifest was changed after {part.name} was written"
                )
        before = part


def _missing(parts: Sequence[ArchivePart], tx: Connection) -> Iterator[ArchiveFinding]:
    """Drops of the ledger, from the day of the oldest part on, that are in no part."""
    archived = {(part.manifest.day, part.manifest.drop) for part in parts}
    since = min(part.manifest.day for part in parts)
    for day, drop_id in drops_since(tx, since):
        if (day, drop_id) not in archived:
            yield ArchiveFinding(
                day.isoformat(),
                f"the ledger says that drop {drop_id} took rows, and no part has it",
            )
