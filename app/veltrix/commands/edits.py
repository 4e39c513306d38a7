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
from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.mistakes import CommandRefused
from veltrix.commands.options import AsJson, Author, Reason

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend, Editable
    from veltrix.operations.replays.plan import EditedNow

_RunId = Annotated[str, typer.Argument(help="The failed run.", show_default=False)]
_Payload = Annotated[
    Path | None,
    typer.Option(
        help="File with the whole payload as it is to be, - for standard input.", allow_dash=True
    ),
]


@over_http
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
    from veltrix.commands.terminal import ids_of, print_json

    if payload is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter(
            "an editor needs a terminal; give a file with the payload, or - for standard input",
            param_hint="--payload",
        )
    id_ = ids_of([run_id])[0]
    with reached(author) as backend:
        # Before the payload is read, which may take a person an hour.
        run = _as_it_is(backend, id_, with_payload=payload is None)

        def send(text: str) -> "EditedNow":
            return backend.edit(id_, text, run.tag, reason)

        if payload is None:
            made = refused_is_1(lambda: _by_hand(run, id_, send), as_json)
        else:
            made = refused_is_1(partial(send, _text_in(payload)), as_json)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{made.id}  {made.state}, edited from {made.origin}")


def _as_it_is(backend: "Backend", run_id: str, *, with_payload: bool) -> "Editable":
    """The run, and what tells whether it changes. Exit code 1 if there is none."""
    from veltrix.commands.terminal import print_error

    found = backend.editable(run_id, with_payload=with_payload)
    if found is None:
        print_error(f"veltrix: there is no run {run_id}")
        raise typer.Exit(1)
    return found


def _text_in(payload: Path) -> str:
    """The JSON text in a file or on standard input. Raises CommandRefused."""
    is_stdin = str(payload) == "-"
    name = "on standard input" if is_stdin else f"in {str(payload)!r}"
    try:
        text = sys.stdin.read() if is_stdin else payload.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise CommandRefused(f"the payload {name} cannot be read: {error}") from None
    return _checked(text, f"the payload {name}")


def _by_hand(run: "Editable", run_id: str, send: "Callable[[str], EditedNow]") -> "EditedNow":
    """Send what the editor left. What does not fit can be mended, and is never lost.

    Raises ReplayRefused for what no other text mends: somebody else acted on the run.
    """
    from veltrix.commands.terminal import print_error
    from veltrix.operations.replays.patch import exact
    from veltrix.operations.replays.rules import ReplayRefused

    if not run.is_failed or run.is_binary:
        why = "its payload is not JSON" if run.is_failed else "it is not failed"
        print_error(f"veltrix: the run cannot be edited: {why}")
        raise typer.Exit(1)
    before = run.data or "null"
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
