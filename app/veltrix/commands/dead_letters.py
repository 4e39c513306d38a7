"""`veltrix events dead-letters`, `dead-letter` and `seen`: what came from a queue and is no run."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.options import AsJson, Author, Limit, Why

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.pipeline.relay.read_dead_letters import LetterStory

PAGE_LETTERS, PAGE_IDS = 200, 1_000
Unseen = Annotated[bool, typer.Option("--unseen", help="Only what nobody has marked as seen.")]


@over_http
def dead_letters(
    unseen: Unseen = False,
    after: Annotated[int, typer.Option(help="Only later than this id.", min=0)] = 0,
    limit: Limit = 100,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write all of them as NDJSON, body and headers too; - is standard output."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List or export dead letters, oldest first.

    Those that name runs made them due again; the others are for people to judge.

    Example: veltrix events dead-letters --unseen --export dead.ndjson
    """
    from veltrix.commands.terminal import print_error, print_json, print_table

    with reached() as backend:
        if export is not None:
            count = _export(backend, export, after, unseen)
            print_error(f"{count:,} dead letters written to {export}")
            return
        if as_json:
            whole = backend.whole_letters(after, limit, unseen=unseen)
            print_json([_document(letter) for letter in whole])
            return
        letters = backend.letters(after, limit, unseen=unseen)
    print_table(
        ["id", "received", "queue", "reason", "detail", "runs", "seen by"],
        [
            (x.id, x.received_at, x.queue, x.reason, x.detail, len(x.run_ids), x.seen_by)
            for x in letters
        ],
        spare=("runs", "seen by"),
    )
    if len(letters) == limit:
        print_error(f"more: --after {letters[-1].id}")


@over_http
def dead_letter(
    id_: Annotated[int, typer.Argument(metavar="ID", help="Its id.", min=1)],
    as_json: AsJson = False,
) -> None:
    """Show a dead letter: why, its headers and its body. Exit code 1 when there is none.

    Example: veltrix events dead-letter 42
    """
    from veltrix.commands.terminal import one_line, print_error, print_json

    with reached() as backend:
        letter = backend.letter(id_)
    if letter is None:
        print_error(f"veltrix: there is no dead letter {id_}")
        raise typer.Exit(1)
    document = _document(letter)
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        typer.echo(f"{name:<14}{one_line(value)}")


@over_http
def seen(
    ids: Annotated[list[int] | None, typer.Argument(help="Their ids.", show_default=False)] = None,
    up_to: Annotated[int | None, typer.Option(help="All up to this id.", min=1)] = None,
    author: Author = None,
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """Mark dead letters as seen.

    Somebody looked at them and did what was to be done. They stay and can be read. Exit code 1
    when nothing was left to mark.

    Example: veltrix events seen --up-to 42 --reason "sent by a test"
    """
    from veltrix.commands.terminal import print_json

    if bool(ids) == bool(up_to):
        raise typer.BadParameter(
            "name the ids, or --up-to with the last of them, not both", param_hint="IDS"
        )
    by, marked = "", 0
    with reached(author) as backend:
        for some in _lists(ids) if ids else _ids_up_to(backend, up_to or 0):
            seen = backend.see(some, reason)
            marked, by = marked + seen.marked, f" by {seen.by}"
    if as_json:
        print_json({"marked": marked})
    else:
        typer.echo(f"{marked:,} marked as seen{by}")
    if not marked:
        raise typer.Exit(1)


def _lists(ids: list[int]) -> Iterator[list[int]]:
    for first in range(0, len(ids), PAGE_IDS):
        yield ids[first : first + PAGE_IDS]


def _ids_up_to(backend: "Backend", last: int) -> Iterator[list[int]]:
    after = 0
    while letters := backend.letters(after, PAGE_IDS, unseen=True):
        ids = [letter.id for letter in letters if letter.id <= last]
        if ids:
            yield ids
        after = letters[-1].id
        if after >= last:
            return


def _export(backend: "Backend", path: Path, after: int, unseen: bool) -> int:
    import msgspec

    count = 0
    with sys.stdout.buffer if str(path) == "-" else path.open("wb") as file:
        while letters := backend.whole_letters(after, PAGE_LETTERS, unseen=unseen):
            for letter in letters:
                file.write(msgspec.json.encode(_document(letter)) + b"\n")
            count += len(letters)
            after = letters[-1].id
    return count


def _document(letter: "LetterStory") -> dict[str, Any]:
    """The letter with its headers as JSON and its body as text where it is some."""
    import msgspec

    values = msgspec.structs.asdict(letter)
    if letter.headers is not None:
        values["headers"] = msgspec.json.decode(letter.headers)
    if not letter.redacted:
        del values["redacted"], values["body" if letter.body is None else "body_base64"]
    del values["body_bytes"]
    return values
