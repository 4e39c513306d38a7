"""The folder of an archive: which parts it has, who writes to it, and what is on disk for good."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from hashlib import sha256
from pathlib import Path

from veltrix.archive.manifest import (
    BOOKS,
    MANIFEST,
    TABLES,
    ArchivePart,
    ArchiveRefused,
    Manifest,
    ManifestBefore,
    day_and_part,
    file_name,
    manifest_of,
    part_name,
    text_of,
)

_PARTIAL = f"{MANIFEST}.partial"
_OURS = {file_name(table) for table in (*TABLES, BOOKS)} | {_PARTIAL}


def parts_of(folder: Path, day: date | None = None) -> list[ArchivePart]:
    """The parts of an archive, as they were written one after the other; of one day, if any is.

    Raises ArchiveRefused for what is no folder, ArchiveBroken for a manifest that is none.
    """
    found = []
    for path in _folders(folder):
        named = day_and_part(path.name)
        if named is None or (day is not None and named[0] != day):
            continue
        file = path / MANIFEST
        if file.is_file():
            text = file.read_bytes()
            found.append(ArchivePart(path, manifest_of(text, file), sha256(text).hexdigest()))
    return sorted(found, key=lambda part: (part.manifest.number, part.name))


def unfinished_in(folder: Path) -> list[str]:
    """Folders named like a part without a manifest: nobody finished them, they are not archived."""
    return sorted(
        path.name
        for path in _folders(folder)
        if day_and_part(path.name) is not None and not (path / MANIFEST).is_file()
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The archive's folder, made if need be, for one writer alone. Raises ArchiveRefused."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # payloads will be in it
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ArchiveRefused(
            f"no archive can be written to {str(folder)!r} ({error.strerror}); name a folder that"
            " this user may write to"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArchiveRefused(
                f"another process writes to {str(folder)!r}; try again when it has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)


def begin_part(folder: Path, parts: list[ArchivePart], day: date) -> tuple[Path, int]:
    """An empty folder for the next part of this day, and its number in the day.

    Leftovers of a writer that died are removed; of a stranger's file: ArchiveRefused.
    """
    part = max((p.manifest.part for p in parts if p.manifest.day == day), default=0) + 1
    path = folder / part_name(day, part)
    path.mkdir(exist_ok=True)
    remove_leftovers(path)
    return path, part


def remove_leftovers(path: Path) -> None:
    """Remove what a writer left in a folder without a manifest, which stays, empty."""
    files = list(path.iterdir())
    strange = sorted(file.name for file in files if file.name not in _OURS)
    if strange:
        raise ArchiveRefused(
            f"{str(path / strange[0])!r} is not ours; move it away: a part is to be written there"
        )
    for file in files:
        file.unlink()


def finish_part(path: Path, manifest: Manifest) -> ArchivePart:
    """The part is archived: its manifest is on disk for good, and all that came before it."""
    text = text_of(manifest)
    partial = path / _PARTIAL
    with partial.open("wb") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.rename(path / MANIFEST)
    for folder in (path, path.parent):
        sync_folder(folder)
    return ArchivePart(path, manifest, sha256(text).hexdigest())


def sync_folder(folder: Path) -> None:
    """Names in this folder are on disk for good."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def before_next(parts: list[ArchivePart]) -> tuple[int, ManifestBefore | None]:
    """The number of the next part of an archive, and the link to the one before it."""
    if not parts:
        return 1, None
    last = parts[-1]
    return last.manifest.number + 1, ManifestBefore(last.name, last.sha256)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise ArchiveRefused(
            f"{str(folder)!r} is no archive ({error.strerror}); name the folder that holds folders"
            " of days, like 2026-12-01"
        ) from None
