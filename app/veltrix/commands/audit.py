"""`veltrix audit`: who did or asked what, why, and what came of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.grouped_help import GroupedGroup
from veltrix.commands.options import AsJson, Limit, time_of

if TYPE_CHECKING:
    from veltrix.access.audit import AuditPage, AuditRow

FOLLOW_S = 0.5
ID_MAX = 2**63 - 1
_Since = Annotated[str | None, typer.Option(help="At or after: RFC 3339, or ago: 30s 15m 2h 7d.")]
OVERLAP = 1_000  # so many ids behind the newest entry one may still be committed


class _Audit(GroupedGroup):
    """What names no command of its own is an option or the id of `list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with `list` before them where it was left out."""
        is_named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if is_named else ["list", *args])


group = typer.Typer(cls=_Audit, help="Who did or asked what, why; and whether that was changed.")


@group.command("list")
@over_http
def entries(
    entry_id: Annotated[
        int | None, typer.Argument(metavar="ID", help="One entry, whole.", min=1, max=ID_MAX)
    ] = None,
    by: Annotated[str | None, typer.Option(help="Only of this author.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, like run.cancel.")] = None,
    target: Annotated[str | None, typer.Option(help="Only run, group, replay, key ...")] = None,
    refused: Annotated[
        bool | None, typer.Option("--refused/--done", help="Only refusals, or only what was done.")
    ] = None,
    since: _Since = None,
    until: Annotated[str | None, typer.Option(help="Before, written like --since.")] = None,
    limit: Limit = 50,
    after: Annotated[
        int | None, typer.Option(help="Go on from where a page ended.", min=0, max=ID_MAX)
    ] = None,
    is_followed: Annotated[
        bool, typer.Option("--follow", "-f", help="Each new entry as it comes, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what was done and refused, newest first; or show one entry with its runs.

    `list` may be left out. `--follow --json` is the stream of all entries, of every api, relay and
    command, one JSON object a line. Exit code 1 when there is no such entry.

    Example: veltrix audit list --refused --since 1d
    """
    if entry_id is not None:
        _show(entry_id, as_json)
        return
    if is_followed:
        _follow(as_json)
        return
    from veltrix.access.audit import AuditFilter

    with reached() as backend:
        wanted = AuditFilter(
            author=by,
            action=action,
            target=target,
            is_refused=refused,
            since=time_of(since, backend.now),
            until=time_of(until, backend.now, "--until"),
        )
        found = backend.audit(wanted, after, limit)
    _list(found, as_json)


def _list(found: "AuditPage", as_json: bool) -> None:
    from veltrix.commands.terminal import print_error, print_json, print_table

    if as_json:
        print_json(found)
        return
    print_table(
        ["id", "when", "by", "action", "on", "runs", "refused", "reason"],
        [
            (a.id, a.at, a.author, a.action, a.target_id, a.runs, a.is_refused, a.reason)
            for a in found.items
        ],
        spare=("refused", "runs"),
    )
    if found.next is not None:
        print_error(f"more: --after {found.next}")


def _follow(as_json: bool) -> None:
    """Until Ctrl-C."""
    from veltrix.commands.ctrl_c import CtrlC

    with reached() as backend, CtrlC() as ctrl_c:
        known, found = set(backend.newest_entries(OVERLAP)), list[Any]()
        while ctrl_c.pause(FOLLOW_S if not found else 0.0):
            # A row that was committed late has a smaller id than some that are known.
            behind = max(known, default=0) - OVERLAP
            known = {row_id for row_id in known if row_id > behind}
            found = backend.later_entries(behind, sorted(known))
            for row in found:
                _print(row, as_json)
            known |= {row.id for row in found}


def _print(row: "AuditRow", as_json: bool) -> None:
    """One line."""
    from veltrix.commands.terminal import one_line, print_json_line

    if as_json:
        print_json_line(row)
        return
    done = "refused" if row.is_refused else "done"
    values = (row.at, row.author, row.action, row.target_id, f"{row.runs} runs", done, row.reason)
    typer.echo("  ".join(one_line(value) for value in values))


def _show(entry_id: int, as_json: bool) -> None:
    from veltrix.commands.terminal import one_line, print_error, print_json

    with reached() as backend:
        found = backend.audit_entry(entry_id)
    if found is None:
        print_error(f"veltrix: there is no entry {entry_id} in the audit")
        raise typer.Exit(1)
    if as_json:
        print_json(found)
        return
    names = ("id", "at", "author", "action", "target", "target_id", "reason", "is_refused", "hash")
    for name in names:
        typer.echo(f"{name.replace('_', ' '):<12}{one_line(getattr(found, name))}")
    for name in ("request", "result"):
        typer.echo(f"{name:<12}{one_line(bytes(getattr(found, name) or b'').decode())}")
    typer.echo(f"{'runs':<12}{found.runs:,}")
    for run_id in found.run_ids:
        typer.echo(run_id)
