"""`veltrix archive`: days of history written to files that prove themselves, and read again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.mistakes import CommandRefused
from veltrix.commands.options import AsJson

if TYPE_CHECKING:
    from veltrix.archive.files import Show
    from veltrix.archive.manifest import ArchivePart
    from veltrix.archive.read import ArchivedEvent
    from veltrix.archive.verify import VerifiedArchive

group = typer.Typer(
    no_args_is_help=True,
    help="Days of history as files: write, list, find an event, verify.",
)
_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The archive.", show_default=False)]
_TABLES = ("events", "runs", "journal", "failed_attempts")


@group.command("write")
def write(
    day: Annotated[str, typer.Argument(metavar="DAY", help="A day in UTC, like 2026-12-01.")],
    folder: Annotated[Path, typer.Option("--to", help="The archive; made if it is not there.")],
    is_again: Annotated[
        bool, typer.Option("--again", help="Another copy of a day that was copied before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Copy a day of the ledger to an archive; nothing is taken out of the ledger.

    Events accepted on that day, their runs, journal and failed attempts, as of one moment. It is
    archived when all was written, read again and compared. Exit code 2 when Ctrl-C ended it:
    nothing is archived then.

    Example: veltrix archive write 2026-12-01 --to archive
    """
    from veltrix.archive.write import write_part
    from veltrix.commands.terminal import connected, print_error, print_json

    asked = _day(day)
    with (
        connected() as (_, engine),
        _stoppable("rows written and compared", None) as show,
    ):
        part = write_part(engine, folder, asked, is_again=is_again, show=show)
    if asked >= datetime.now(UTC).date():
        print_error(f"veltrix: {asked} is not over: what comes later is not in {part.name}")
    if as_json:
        print_json(part.manifest)
    else:
        typer.echo(f"{_told(part)}\n{folder / part.name}  manifest {part.sha256}")


@group.command("read")
def read(
    folder: _Folder,
    day: Annotated[str | None, typer.Argument(metavar="DAY", help="Only of this day.")] = None,
    event: Annotated[str | None, typer.Option(help="Show this event, by its ledger id.")] = None,
    run: Annotated[str | None, typer.Option(help="Show the event of this run.")] = None,
    is_verified: Annotated[
        bool, typer.Option("--verify", help="Check every file, the counts and the chain.")
    ] = False,
    is_ledger_asked: Annotated[
        bool, typer.Option("--ledger", help="With --verify: and the books in the database.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the parts of an archive, show an event with all that came of it, or verify.

    No database is needed, but for --ledger. `--verify` ends with the last part and the digest of
    its manifest: kept elsewhere, they show later that nothing was cut off the end. Exit code 1:
    there is no such event, or something is not what was written; 2 when Ctrl-C ended it.

    Example: veltrix archive read archive 2026-12-01 --verify
    """
    from veltrix.archive.folder import parts_of

    if is_ledger_asked and not is_verified:
        raise CommandRefused("--ledger is what --verify compares with; name both")
    if is_verified and (event or run):
        raise CommandRefused("--verify looks at whole parts; leave --event and --run out, or it")
    if event and run:
        raise CommandRefused("an event is shown with all its runs; name it or a run, not both")
    with _sentences():
        parts = parts_of(folder, None if day is None else _day(day))
    if day is not None and not parts:
        raise CommandRefused(
            f"{day} is not archived in {str(folder)!r}; `veltrix archive read` lists what is"
        )
    if is_verified:
        _verify(folder, parts, is_ledger_asked, as_json)
    elif event or run:
        _show_event(parts, event, run, as_json)
    else:
        _list(folder, parts, as_json)


@contextmanager
def _stoppable(verb: str, total: int | None) -> "Iterator[Show]":
    """Progress; Ctrl-C ends it cleanly between two pages, with exit code 2."""
    from veltrix.archive.manifest import ArchiveStopped
    from veltrix.commands.ctrl_c import CtrlC
    from veltrix.commands.progress import Progress
    from veltrix.commands.terminal import print_error

    done = 0
    with CtrlC() as ctrl_c, Progress(verb, total) as progress:

        def show(rows: int) -> bool:
            nonlocal done
            done += rows
            progress.show(done)
            return not ctrl_c.is_pressed

        try:
            with _sentences():
                yield show
        except ArchiveStopped:
            print_error("veltrix: stopped")
            raise typer.Exit(2) from None


@contextmanager
def _sentences() -> Iterator[None]:
    """What a disk refuses is a sentence."""
    try:
        yield
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"
        raise CommandRefused(
            f"the archive cannot be written or read: {error.strerror or error}{where}; mend that,"
            " and run the same command again"
        ) from None


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no day; write it like 2026-12-01", param_hint="DAY"
        ) from None


def _verify(folder: Path, parts: "Sequence[ArchivePart]", is_asked: bool, as_json: bool) -> None:
    from veltrix.archive.verify import verify_archive
    from veltrix.commands.terminal import connected, print_json
    from veltrix.store.transactions import open_autocommit

    total = sum(file.rows for part in parts for file in part.manifest.files.values())
    with _stoppable("rows", total) as show:
        if is_asked:
            with connected() as (_, engine), open_autocommit(engine) as tx:
                found = verify_archive(folder, parts=parts, ledger=tx, show=show)
        else:
            found = verify_archive(folder, parts=parts, show=show)
    if as_json:
        print_json(found)
    else:
        _print_verified(found)
    if found.findings:
        raise typer.Exit(1)
    if not found.is_complete:
        raise typer.Exit(2)


def _print_verified(found: "VerifiedArchive") -> None:
    from veltrix.commands.terminal import one_line

    for finding in found.findings:
        typer.echo(f"{finding.part}: {one_line(finding.says)}")
    if found.begins_after is not None:
        typer.echo(f"the archive goes on after {found.begins_after}, which is not here")
    whole = "whole" if not found.findings else f"{len(found.findings):,} findings"
    so_far = "" if found.is_complete else ", as far as it was looked at"
    books = ", as in the ledger's books" if found.is_ledger_asked and not found.findings else ""
    typer.echo(
        f"{found.parts:,} parts, {found.rows:,} rows, {whole}{books}{so_far};"
        f" last {found.last or '-'}:{found.last_sha256 or '-'}"
    )


def _list(folder: Path, parts: "Sequence[ArchivePart]", as_json: bool) -> None:
    from veltrix.archive.folder import unfinished_in
    from veltrix.commands.terminal import print_error, print_json, print_table

    if as_json:
        print_json([part.manifest for part in parts])
    else:
        print_table(
            ["part", "of", *(name.replace("_", " ") for name in _TABLES), "bytes", "written"],
            [
                (
                    part.name,
                    "a copy" if part.manifest.drop is None else "a drop",
                    *(part.manifest.files[name].rows for name in _TABLES),
                    sum(file.bytes for file in part.manifest.files.values()),
                    part.manifest.written_at,
                )
                for part in parts
            ],
            spare=("written", "failed attempts", "journal"),
        )
    for name in unfinished_in(folder):
        print_error(f"veltrix: {name} has no manifest: it is not archived")


def _show_event(
    parts: "Sequence[ArchivePart]", event: str | None, run: str | None, as_json: bool
) -> None:
    from veltrix.archive.read import find_event
    from veltrix.commands.terminal import ids_of, print_error, print_json
    from veltrix.domain.ids import event_id_of

    (asked,) = ids_of([event or run or ""])
    event_id = asked if event else event_id_of(asked)
    with _stoppable("rows read", None) as show:
        found = find_event(parts, event_id, show)
    if found is None or (run and asked not in {one.run["id"] for one in found.runs}):
        print_error(f"veltrix: no part that was looked at has {asked}")
        raise typer.Exit(1)
    if as_json:
        print_json(found)
    else:
        _print_event(found)


def _print_event(found: "ArchivedEvent") -> None:
    from veltrix.commands.terminal import one_line

    typer.echo(f"in part {found.part}")
    _print_row(found.event, "")
    for one in found.runs:
        typer.echo(f"\nrun {one.run['id']}")
        _print_row({name: value for name, value in one.run.items() if name != "steps"}, "  ")
        for entry in (*one.steps, *one.journal):
            names = ("position", "kind", "name", "output", "error")
            typer.echo(f"  {'  '.join(one_line(entry.get(name)) for name in names)}")
        for attempt in one.failed_attempts:
            told = ("position", "step", "attempt", "type", "message", "failed_at")
            typer.echo(f"  failed {'  '.join(one_line(attempt[name]) for name in told)}")


def _print_row(row: dict[str, object], indent: str) -> None:
    from veltrix.commands.terminal import one_line

    for name, value in row.items():
        if value is not None and value != "":
            typer.echo(f"{indent}{name.replace('_', ' '):<20}{one_line(value)}")


def _told(part: "ArchivePart") -> str:
    files = part.manifest.files
    rows = ", ".join(f"{files[name].rows:,} {name.replace('_', ' ')}" for name in _TABLES)
    size = sum(file.bytes for file in files.values())
    return f"{part.manifest.day} is archived: {rows}, {size:,} bytes"
