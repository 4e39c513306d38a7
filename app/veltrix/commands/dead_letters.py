"""`veltrix events dead-letters`, `dead-letter` and `seen`: what came from a queue and is no run."""

import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veltrix.commands.options import AsJson, Author, Limit, Why

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from veltrix.access.audit import Audited
    from veltrix.pipeline.relay.dead_letter_rows import StoredLetter

PAGE_LETTERS = 500
Unseen = Annotated[bool, typer.Option("--unseen", help="Only what nobody has marked as seen.")]


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
    from veltrix.commands.terminal import connected, print_error, print_json, print_table

    with connected() as (_, engine):
        if export is not None:
            count = _export(engine, export, after, unseen)
            print_error(f"{count:,} dead letters written to {export}")
            return
        letters = _page(engine, after, limit, unseen)
    if as_json:
        print_json([_document(letter) for letter in letters])
        return
    print_table(
        ["id", "received", "queue", "reason", "detail", "runs", "seen by"],
        [
            (x.id, x.received_at, x.queue, x.reason, x.detail, len(x.run_ids), x.seen_by)
            for x in letters
        ],
    )
    if len(letters) == limit:
        print_error(f"more: --after {letters[-1].id}")


def dead_letter(
    id_: Annotated[int, typer.Argument(metavar="ID", help="Its id.", min=1)],
    as_json: AsJson = False,
) -> None:
    """Show a dead letter: why, its headers and its body. Exit code 1 when there is none.

    Example: veltrix events dead-letter 42
    """
    from veltrix.commands.terminal import connected, print_error, print_json, shown

    with connected() as (_, engine):
        letters = _page(engine, id_ - 1, 1, unseen=False)
    if not letters or letters[0].id != id_:
        print_error(f"veltrix: there is no dead letter {id_}")
        raise typer.Exit(1)
    document = _document(letters[0])
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        typer.echo(f"{name:<14}{shown(value)}")


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
    from veltrix.access.audit import append
    from veltrix.commands.terminal import author_of, connected, print_json
    from veltrix.pipeline.relay.dead_letter_rows import mark_seen
    from veltrix.store.transactions import transaction

    if bool(ids) == bool(up_to):
        raise typer.BadParameter("name ids, or --up-to one", param_hint="IDS")
    by, marked = author_of(author), 0
    with connected() as (_, engine):
        lists = iter([ids]) if ids else _ids_up_to(engine, up_to or 0)
        for some in lists:
            with transaction(engine) as tx:
                new = mark_seen(tx, some, by)
                append(tx, [_audited(some, new, by, reason)])
            marked += new
    if as_json:
        print_json({"marked": marked})
    else:
        typer.echo(f"{marked:,} marked as seen by {by}")
    if not marked:
        raise typer.Exit(1)


def _audited(ids: list[int], marked: int, by: str, reason: str) -> "Audited":
    from veltrix.access.audit import Audited

    return Audited(
        author=by,
        action="dead_letter.see",
        reason=reason,
        target="dead_letter",
        target_id=str(ids[0]) if len(ids) == 1 else None,
        request={"ids": ids},
        result={"marked": marked},
        is_refused=not marked,
    )


def _page(engine: "Engine", after: int, limit: int, unseen: bool) -> "list[StoredLetter]":
    from veltrix.pipeline.relay.dead_letter_rows import read
    from veltrix.store.transactions import open_autocommit

    with open_autocommit(engine) as tx:
        return read(tx, after=after, limit=limit, unseen_only=unseen)


def _pages(engine: "Engine", after: int, unseen: bool) -> "Iterator[list[StoredLetter]]":
    while letters := _page(engine, after, PAGE_LETTERS, unseen):
        yield letters
        after = letters[-1].id


def _ids_up_to(engine: "Engine", last: int) -> Iterator[list[int]]:
    for letters in _pages(engine, 0, unseen=True):
        ids = [letter.id for letter in letters if letter.id <= last]
        if ids:
            yield ids
        if letters[-1].id >= last:
            return


def _export(engine: "Engine", path: Path, after: int, unseen: bool) -> int:
    import msgspec

    count = 0
    with sys.stdout.buffer if str(path) == "-" else path.open("wb") as file:
        for letters in _pages(engine, after, unseen):
            for letter in letters:
                file.write(msgspec.json.encode(_document(letter)) + b"\n")
            count += len(letters)
    return count


def _document(letter: "StoredLetter") -> dict[str, Any]:
    """The letter with its headers as JSON and its body as text where it is some."""
    import msgspec

    values = msgspec.structs.asdict(letter)
    values["headers"] = msgspec.json.decode(letter.headers)
    body = values.pop("body")
    try:
        values["body"] = body.decode()
    except UnicodeDecodeError:
        values["body_base64"] = b64encode(body).decode()
    return values
