"""Reading one event out of an archive, with all that came of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from veltrix.archive.files import Show, check_size, go_on, lines_of
from veltrix.archive.manifest import ArchiveBroken, ArchivePart
from veltrix.domain.ids import runs_range

_HEX_ID = 36
_INLINE = ("position", "kind", "name", "arguments_digest", "output", "attempts", "began_before_ms",
           "took_ms", "arguments")  # fmt: skip

Row = dict[str, Any]


class ArchivedRun(msgspec.Struct):
    """A run with its journal and its failed attempts, each as it was in its table.

    `steps`: the entries that were kept in the run's own row (`runs.steps`), by their names.
    """

    run: Row
    steps: list[Row]
    journal: list[Row]
    failed_attempts: list[Row]


class ArchivedEvent(msgspec.Struct):
    """An event with its runs, and the part that it was found in."""

    part: str
    event: Row
    runs: list[ArchivedRun]


def find_event(
    parts: Sequence[ArchivePart], event_id: str, show: Show = go_on
) -> ArchivedEvent | None:
    """This event from the last of the parts that has it; None: none has.

    A file is read up to the id that is asked for. Raises ArchiveStopped, ArchiveBroken.
    """
    for part in reversed(parts):
        if not part.manifest.first_id <= event_id < part.manifest.end_id:
            continue
        for table, file in part.manifest.files.items():
            check_size(part.file(table), file)
        found = list(_rows(part.file("events"), "id", event_id, event_id, show))
        if found:
            return ArchivedEvent(part.name, found[0], _runs(part, event_id, show))
    return None


def _runs(part: ArchivePart, event_id: str, show: Show) -> list[ArchivedRun]:
    first, last = runs_range(event_id)
    runs = {
        row["id"]: ArchivedRun(row, _steps(row), [], [])
        for row in _rows(part.file("runs"), "id", first, last, show)
    }
    if runs:
        for table in ("journal", "failed_attempts"):
            for row in _rows(part.file(table), "run_id", first, last, show):
                if (run := runs.get(row["run_id"])) is not None:
                    getattr(run, table).append(row)
    return list(runs.values())


def _rows(path: Path, key: str, first: str, last: str, show: Show) -> Iterator[Row]:
    """Rows whose key is from `first` to `last`. Only they are parsed: lines begin with what counts.

    Of failed attempts the run is the second column, so they are parsed up to the end.
    """
    begin = f'{{"{key}":"'.encode()
    at = len(begin)
    for line in lines_of(path, show):
        try:
            id_ = (
                line[at : at + _HEX_ID].decode()
                if line.startswith(begin)
                else msgspec.json.decode(line, type=_OfRun).run_id
            )
            if id_ > last:
                return
            row = msgspec.json.decode(line, type=Row) if id_ >= first else None
        except ValueError as error:
            raise ArchiveBroken(f"{path.name} has a line that is no row: {error}") from None
        if row is not None:
            yield row


class _OfRun(msgspec.Struct):
    run_id: str


def _steps(run: Row) -> list[Row]:
    entries = msgspec.json.decode(run.get("steps") or "[]")
    return [dict(zip(_INLINE, entry, strict=False)) for entry in entries]
