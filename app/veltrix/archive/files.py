"""Files of rows: one JSON object a line, compressed; written, on disk for good, and read again."""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from hashlib import file_digest, sha256
from pathlib import Path

from veltrix.archive.manifest import ArchiveBroken, ArchivedFile, ArchiveStopped

Show = Callable[[int], bool]  # is told of so many rows more; False: stop
_SHOW_ROWS = 1_000
_NOT_WHOLE = (EOFError, gzip.BadGzipFile, zlib.error)


def go_on(_rows: int) -> bool:
    """Nobody looks, and nobody stops it."""
    return True


def write_lines(path: Path, pages: Iterable[list[bytes]], show: Show = go_on) -> ArchivedFile:
    """These lines are on disk for good, and have been read again from there.

    The same lines make the same bytes. Raises ArchiveStopped, ArchiveBroken.
    """
    with path.open("wb") as file:
        out = _Hashing(file)
        rows = 0
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=out, mtime=0) as packed:
            for lines in pages:
                packed.write(b"".join([b"%b\n" % line for line in lines]))
                rows += len(lines)
                if not show(len(lines)):
                    raise ArchiveStopped
        file.flush()
        os.fsync(file.fileno())
    written = ArchivedFile(path.name, rows, out.bytes, out.sha256.hexdigest())
    check_bytes(path, written)
    return written


def check_bytes(path: Path, said: ArchivedFile) -> None:
    """Raises ArchiveBroken unless the file has the bytes that were written."""
    try:
        with path.open("rb") as file:
            size, digest = os.fstat(file.fileno()).st_size, file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArchiveBroken(f"{said.name} cannot be read ({error.strerror})") from None
    if (size, digest) != (said.bytes, said.sha256):
        raise ArchiveBroken(
            f"{said.name} has other bytes than were written ({size:,} of {said.bytes:,}, SHA-256"
            f" {digest[:12]}... instead of {said.sha256[:12]}...)"
        )


def check_size(path: Path, said: ArchivedFile) -> None:
    """Raises ArchiveBroken where the file has not as many bytes: a cheap look before one reads."""
    size = path.stat().st_size if path.exists() else 0
    if size != said.bytes:
        raise ArchiveBroken(
            f"{path} has {size:,} bytes, and {said.bytes:,} were written; `veltrix archive read"
            " --verify` looks at all of the archive"
        )


def lines_of(path: Path, show: Show = go_on) -> Iterator[bytes]:
    """The lines of a file, one after the other. Raises ArchiveStopped, ArchiveBroken."""
    rows = 0
    try:
        with gzip.open(path, "rb") as packed:
            for line in packed:
                yield line
                rows += 1
                if rows % _SHOW_ROWS == 0 and not show(_SHOW_ROWS):
                    raise ArchiveStopped
    except (*_NOT_WHOLE, OSError) as error:
        raise ArchiveBroken(f"{path.name} cannot be read: {error}") from None
    if not show(rows % _SHOW_ROWS):
        raise ArchiveStopped


class _Hashing(io.RawIOBase):
    """Writes through, and knows the digest of what was written."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file, self.sha256, self.bytes = file, sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        self.sha256.update(data)
        self.bytes += len(data)
        return self._file.write(data)
