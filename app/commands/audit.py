"""`veltrix audit`: who did or asked what, why, and what came of it."""

from typing import Annotated

import typer

from app.commands.options import AsJson, Limit, time_of


def audit(
    entry_id: Annotated[
        int | None, typer.Argument(metavar="ID", help="One entry, whole.", min=1)
    ] = None,
    by: Annotated[str | None, typer.Option(help="Only of this author.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this action, like run.cancel.")] = None,
    target: Annotated[str | None, typer.Option(help="Only run, group, replay, key ...")] = None,
    refused: Annotated[
        bool | None, typer.Option("--refused/--done", help="Only refusals, or only what was done.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="At or after: RFC 3339, or ago: 30s 15m 2h 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before, written like --since.")] = None,
    limit: Limit = 50,
    after: Annotated[int | None, typer.Option(help="Go on from where a page ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what was done and refused, newest first; or show one entry with its runs.

    Exit code 1 when there is no such entry.

    Example: veltrix audit --refused --since 1d
    """
    from app.commands.terminal import connected, now, print_error, print_json, print_table
    from app.store.audit import AuditFilter, page
    from app.store.transactions import open_autocommit

    if entry_id is not None:
        _show(entry_id, as_json)
        return
    at = now()
    wanted = AuditFilter(
        author=by,
        action=action,
        target=target,
        is_refused=refused,
        since=time_of(since, at),
        until=time_of(until, at, "--until"),
    )
    with connected() as (_, engine), open_autocommit(engine) as tx:
        found = page(tx, wanted, cursor=after, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["id", "when", "by", "action", "on", "runs", "refused", "reason"],
        [
            (a.id, a.at, a.author, a.action, a.target_id, a.runs, a.is_refused, a.reason)
            for a in found.items
        ],
    )
    if found.next is not None:
        print_error(f"more: --after {found.next}")


def _show(entry_id: int, as_json: bool) -> None:
    from app.commands.terminal import connected, print_error, print_json, shown
    from app.store.audit import entry
    from app.store.transactions import open_autocommit

    with connected() as (_, engine), open_autocommit(engine) as tx:
        found = entry(tx, entry_id)
    if found is None:
        print_error(f"veltrix: there is no entry {entry_id} in the audit")
        raise typer.Exit(1)
    if as_json:
        print_json(found)
        return
    for name in ("id", "at", "author", "action", "target", "target_id", "reason", "is_refused"):
        typer.echo(f"{name.replace('_', ' '):<12}{shown(getattr(found, name))}")
    for name in ("request", "result"):
        typer.echo(f"{name:<12}{shown(bytes(getattr(found, name) or b'').decode())}")
    typer.echo(f"{'runs':<12}{found.runs:,}")
    for run_id in found.run_ids:
        typer.echo(run_id)
