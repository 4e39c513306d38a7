"""`veltrix replay edit`: a failed run's payload is changed by hand and runs as a new run."""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from typing import TYPE_CHECKING, Annotated

import click
import typer

from veltrix.commands.acting import refused_is_1, tell
from veltrix.commands.mistakes import CommandRefused
from veltrix.commands.options import AsJson, Author, Reason

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from veltrix.operations.replays.patch import Origin
    from veltrix.operations.replays.plan import EditedNow

_RunId = Annotated[str, typer.Argument(help="The failed run.", show_default=False)]
_Payload = Annotated[
    Path | None,
    typer.Option(
        help="File with the whole payload as it is to be, - for standard input.", allow_dash=True
    ),
]


def edit(
    run_id: _RunId,
    reason: Reason,
    payload: _Payload = None,
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Edit a failed run's payload and run it as a new run, from the beginning, at once.

    Without --payload your $EDITOR opens with the payload. The failed run stays, archived, and names
    the new one. Exit code 1 when the run is not failed, somebody replayed or edited it meanwhile,
    the payload does not fit the workflow's input, or nothing was changed in the editor.

    Example: veltrix replay edit 0199d2c4-6f3a-7b21-9e55-1f7c86a9d0e3 --reason "cents were text"
    """
    from veltrix.bootstrap import event_ids, real_sources
    from veltrix.commands.terminal import author_of, connected, ids_of, print_json
    from veltrix.operations.replays.edit import EditOf
    from veltrix.operations.replays.patch import replacing
    from veltrix.operations.replays.plan import EditedNow, edit_now

    if payload is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter(
            "an editor needs a terminal; give a file with the payload, or - for standard input",
            param_hint="--payload",
        )
    id_, by = ids_of([run_id])[0], author_of(author)
    with connected() as (settings, engine):
        # Before the payload is read, which may take a person an hour.
        origin, tag = _as_it_is(engine, id_)
        limits = (settings.event_bytes_max, event_ids(real_sources()), settings.accounts_max)
        of = EditOf("", by, reason, *limits)

        def send(text: str) -> EditedNow:
            return edit_now(engine, id_, replacing(text), tag, of)

        if payload is None:
            made = refused_is_1(lambda: _by_hand(origin, id_, send), as_json)
        else:
            made = refused_is_1(partial(send, _text_in(payload)), as_json)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{made.id}  {made.state}, edited from {made.origin}")


def _as_it_is(engine: "Engine", run_id: str) -> "tuple[Origin | None, str]":
    """The run with its payload (None: it is not failed), and what tells whether it changes."""
    from veltrix.commands.terminal import print_error
    from veltrix.operations.replays import edit_rows
    from veltrix.operations.replays.plan import tag_text
    from veltrix.store.transactions import transaction

    with transaction(engine, snapshot=True) as tx:
        tag = edit_rows.tag_of(tx, run_id)
        found = [] if tag is None else edit_rows.origins(tx, [(run_id, tag[0])])
    if tag is None:
        print_error(f"veltrix: there is no run {run_id}")
        raise typer.Exit(1)
    return (found[0] if found else None), tag_text(tag)


def _text_in(payload: Path) -> str:
    """The JSON text in a file or on standard input. Raises CommandRefused."""
    is_stdin = str(payload) == "-"
    name = "on standard input" if is_stdin else f"in {str(payload)!r}"
    try:
        text = sys.stdin.read() if is_stdin else payload.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise CommandRefused(f"the payload {name} cannot be read: {error}") from None
    return _checked(text, f"the payload {name}")


def _by_hand(
    origin: "Origin | None", run_id: str, send: "Callable[[str], EditedNow]"
) -> "EditedNow":
    """Send what the editor left. What does not fit can be mended, and is never lost.

    Raises ReplayRefused for what no other text mends: somebody else acted on the run.
    """
    from veltrix.commands.terminal import print_error
    from veltrix.operations.replays.patch import exact
    from veltrix.operations.replays.rules import ReplayRefused

    if origin is None or origin.is_binary:
        why = "it is not failed" if origin is None else "its payload is not JSON"
        print_error(f"veltrix: the run cannot be edited: {why}")
        raise typer.Exit(1)
    before = origin.data or "null"
    text = _pretty(before)
    while True:
        text = _left_by_editor(text)
        try:
            _checked(text, "the payload")
            if exact(text) == exact(before):
                print_error(
                    "veltrix: the payload is as it was; `veltrix replay run` runs it again unedited"
                )
                raise typer.Exit(1)
            return _sent(text, run_id, send)
        except CommandRefused as mistake:
            print_error(f"veltrix: {mistake}")
        except ReplayRefused as refusal:
            if refusal.slug != "edit-refused":
                raise
            tell(refusal)
        if not _is_opened_again():
            _keep(text, run_id)
            raise typer.Exit(1)


def _sent(text: str, run_id: str, send: "Callable[[str], EditedNow]") -> "EditedNow":
    """What `send` gives. Whatever else happens than that the text does not fit, it is kept."""
    from veltrix.operations.replays.rules import ReplayRefused

    try:
        return send(text)
    except BaseException as error:
        if not (isinstance(error, ReplayRefused) and error.slug == "edit-refused"):
            _keep(text, run_id)
        raise


def _is_opened_again() -> bool:
    try:
        return typer.confirm("Open the editor again?", default=True, err=True)
    except typer.Abort:  # Ctrl-C
        return False


def _keep(text: str, run_id: str) -> None:
    """What was typed outlives the command, for nobody else to read."""
    from veltrix.commands.terminal import print_error

    handle, path = mkstemp(prefix="veltrix-edit-", suffix=".json")
    os.close(handle)
    Path(path).write_text(text, encoding="utf-8")
    print_error(
        f"your text is kept in {path}: `veltrix replay edit {run_id} --payload {path}` sends it"
    )


def _left_by_editor(text: str) -> str:
    """The text as it is when the editor ends; nobody else can read it. Raises CommandRefused."""
    with TemporaryDirectory(prefix="veltrix-edit-") as folder:
        file = Path(folder, "payload.json")
        file.write_text(text, encoding="utf-8")
        try:
            click.edit(filename=str(file))  # VISUAL, EDITOR, or what is there
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError, click.ClickException) as error:
            raise CommandRefused(
                f"the editor cannot be used ({error}): set EDITOR, or give --payload"
            ) from None


def _checked(text: str, name: str) -> str:
    from veltrix.domain.json_text import json_problem

    if problem := json_problem(text.encode()):
        raise CommandRefused(f"{name} is {problem}")
    return text


def _pretty(text: str) -> str:
    import msgspec

    return msgspec.json.format(text) + "\n"
