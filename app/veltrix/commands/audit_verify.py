"""`veltrix audit verify`: whether somebody changed the audit, and where."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.audit import ID_MAX
from veltrix.commands.options import AsJson

if TYPE_CHECKING:
    from veltrix.access.audit_check import Verified

_EXPECTED = re.compile(r"(\d{1,19}):([0-9a-fA-F]{64})")


def verify(
    since_id: Annotated[
        int | None,
        typer.Option(help="Begin at this row; the one before it is believed.", min=1, max=ID_MAX),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(metavar="ID:HASH", help="A row as it was kept elsewhere; more than once."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the audit's hashes again, and say where a row was changed, taken away, put in, moved.

    The last line has id and hash of the last row. Keep it where nobody of the database can write,
    or take one from the log (`audit_id` and `audit_hash` of each `action.audited`): only `--expect`
    shows that rows were cut off the end, or that all of them were written anew. Exit code 1 when
    the chain breaks, 2 when Ctrl-C ended it.

    Example: veltrix audit verify --since-id 5000
    """
    from veltrix.access.audit_check import count, verify
    from veltrix.commands.ctrl_c import CtrlC
    from veltrix.commands.progress import Progress
    from veltrix.commands.terminal import connected, print_json
    from veltrix.store.transactions import transaction

    expected = [_pair_of(text) for text in expect or ()]
    with (
        connected() as (_, engine),
        CtrlC() as ctrl_c,
        transaction(engine, snapshot=True) as tx,
        Progress("rows of the audit", count(tx, since_id)) as progress,
    ):

        def show(rows: int) -> bool:
            progress.show(rows)
            return not ctrl_c.is_pressed

        found = verify(tx, since_id=since_id, expected=expected, show=show)
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found.is_whole:
        raise typer.Exit(1)
    if not found.is_complete:
        raise typer.Exit(2)


def _pair_of(text: str) -> tuple[int, str]:
    found = _EXPECTED.fullmatch(text)
    if found is None or int(found[1]) > ID_MAX:
        raise typer.BadParameter(
            f"{text!r} is no row; write id and hash as the last line of this command has them",
            param_hint="--expect",
        )
    return int(found[1]), found[2]


def _print(found: "Verified") -> None:
    for one in found.breaks:
        typer.echo(one.says)
    if found.more_rows:
        typer.echo(f"{found.more_rows:,} rows more do not fit")
    if found.unhashed_rows:
        typer.echo(
            f"{found.unhashed_rows:,} rows are older than the chain; the first row with a hash"
            " covers them together"
        )
    ended = "whole" if found.is_whole else f"broken from row {found.breaks[0].id:,} on"
    so_far = "" if found.is_complete else ", as far as it was looked at"
    last = "" if found.last_id is None else f"; last row {found.last_id}:{found.last_hash}"
    typer.echo(f"{found.rows:,} rows, {ended}{so_far}{last}")
