"""What an archive says of itself: a manifest for each part, and the chain that they make.

A part is the history of one day (UTC) that was written together: its folder is `2026-12-01`, and
`2026-12-01.2` for the second part of that day. Its manifest is written last, so a folder without
one is no part.

ArchiveRefused        it cannot be done so; the message says why and what would work
ArchiveBroken         files are not what was written, or not what the books say
ArchiveStopped        the caller asked to stop; nothing is archived
"""

import re
from datetime import date, datetime
from pathlib import Path

import msgspec

FORMAT = 1
MANIFEST = "manifest.json"
# In the order in which they are written; `books` has a row for each minute and account.
TABLES = ("events", "runs", "journal", "failed_attempts")
BOOKS = "books"
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.([1-9]\d*))?")


class ArchiveRefused(Exception):
    """It cannot be archived or read so; the message says why and what would work."""


class ArchiveBroken(Exception):
    """What is in the files is not what was written, or not what the books say left."""


class ArchiveStopped(Exception):
    """The caller asked to stop; nothing is archived."""


class ArchivedFile(msgspec.Struct, frozen=True):
    """A file of a part: its rows, and its bytes and SHA-256 (hex) as it lies on disk."""

    name: str
    rows: int
    bytes: int
    sha256: str


class ManifestBefore(msgspec.Struct, frozen=True):
    """The part that was written to the archive before, and the SHA-256 of its manifest's bytes."""

    part: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a part. All ids are from `first_id` on, and before `end_id`.

    `number` counts the parts of an archive from 1 on. `drop`: which drop took these rows away;
    None: a copy of what is still there. `counts` are the sums of `books`.
    """

    format: int
    ledger: str
    schema: str
    day: date
    part: int
    number: int
    drop: str | None
    written_at: datetime
    first_id: str
    end_id: str
    files: dict[str, ArchivedFile]
    counts: dict[str, int]
    before: ManifestBefore | None


class ArchivePart(msgspec.Struct, frozen=True):
    """A part with its folder; `sha256` is that of its manifest's bytes."""

    path: Path
    manifest: Manifest
    sha256: str

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.path.name

    def file(self, table: str) -> Path:
        """Where the rows of this table are."""
        return self.path / file_name(table)


def file_name(table: str) -> str:
    """The name of a table's file in a part."""
    return f"{table}.jsonl.gz"


def part_name(day: date, part: int) -> str:
    """The name of a part's folder."""
    return day.isoformat() if part == 1 else f"{day.isoformat()}.{part}"


def day_and_part(name: str) -> tuple[date, int] | None:
    """What a folder's name says; None: it is not that of a part."""
    found = _NAME.fullmatch(name)
    if found is None or found[2] == "1":
        return None
    try:
        return date.fromisoformat(found[1]), int(found[2] or 1)
    except ValueError:
        return None


def manifest_of(text: bytes, where: Path) -> Manifest:
    """The manifest that was read at `where`. Raises ArchiveRefused, ArchiveBroken."""
    try:
        known = msgspec.json.decode(text, type=_Known)
    except msgspec.DecodeError as error:
        raise ArchiveBroken(f"{where} is no manifest: {error}") from None
    if known.format != FORMAT:
        raise ArchiveRefused(
            f"{where} has format {known.format}, and this Veltrix reads {FORMAT}: take the release"
            " that wrote it, or a newer one"
        )
    try:
        found = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise ArchiveBroken(f"{where} is no manifest: {error}") from None
    names = {table: file.name for table, file in found.files.items()}
    if names != {table: file_name(table) for table in (*TABLES, BOOKS)}:
        raise ArchiveBroken(f"{where} names other files than a part has")
    return found


def text_of(manifest: Manifest) -> bytes:
    """The bytes of its file, for programs and people."""
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


class _Known(msgspec.Struct):
    format: int
