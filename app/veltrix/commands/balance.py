"""`veltrix balance`: the books."""

from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.options import AsJson

if TYPE_CHECKING:
    from veltrix.operations.books.books import Balance


@over_http
def balance(
    by: Annotated[
        int, typer.Option(help="Most sources and types to list, worst first.", min=0, max=1_000)
    ] = 20,
    skip: Annotated[int, typer.Option(help="Leave out so many of the worst.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """Show the books: accepted against settled and open.

    Events: accepted = routed + unrouted. Runs: started = succeeded + failed + cancelled + open.
    Exit code 1 when anything is unaccounted.

    Example: veltrix balance --json
    """
    from veltrix.commands.terminal import print_json, print_unserved

    with reached() as backend:
        books, bare = backend.balance(by, skip), backend.unserved()
    if as_json:
        print_json(books)
    else:
        _print(books)
    print_unserved(bare)
    if books.unaccounted:
        raise typer.Exit(1)


def _print(books: "Balance") -> None:
    from veltrix.commands.terminal import print_table

    e, r, beside = books.events, books.runs, books.beside
    typer.echo(f"as of    {books.as_of:%Y-%m-%d %H:%M:%S} UTC")
    typer.echo(f"events   {e.accepted:,} accepted = {e.routed:,} routed + {e.unrouted:,} unrouted")
    typer.echo(
        f"runs     {r.started:,} started = {r.succeeded:,} succeeded + {r.failed:,} failed"
        f" + {r.cancelled:,} cancelled + {r.open:,} open"
    )
    typer.echo(f"open     {r.queued:,} queued + {r.running:,} running + {r.waiting:,} waiting")
    typer.echo(
        f"beside   {beside.duplicates:,} duplicates, {beside.refused:,} refused,"
        f" {beside.dead_letters:,} dead letters"
    )
    typer.echo(f"accounts {books.accounts:,} sources and types")
    typer.echo(f"unaccounted  {books.unaccounted:,}\n")
    print_table(
        [
            *("source", "type", "accepted", "unrouted", "settled", "failed", "open"),
            *("duplicates", "refused", "unaccounted"),
        ],
        [
            (
                "(all others)" if a.is_overflow else a.source,
                a.type,
                a.events.accepted,
                a.events.unrouted,
                a.runs.succeeded + a.runs.failed + a.runs.cancelled,
                a.runs.failed,
                a.runs.open,
                a.beside.duplicates,
                a.beside.refused,
                a.unaccounted,
            )
            for a in books.by
        ],
        spare=("refused", "duplicates", "unrouted", "settled"),
    )
