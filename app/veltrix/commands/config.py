"""`veltrix config` and `veltrix demo`."""

from pathlib import Path
from typing import Annotated

import typer

from veltrix.commands.options import AsJson


def config(as_json: AsJson = False) -> None:
    """Show the settings in effect.

    And where each comes from; passwords are masked. Origin: environment, file (of a secret),
    .env, `veltrix dev` (run in this folder) or default.
    Exit code 2 when they cannot be used.

    Example: veltrix config
    """
    from veltrix.commands.terminal import operator_settings, print_json, print_table
    from veltrix.settings.load import DEV_FILE, effective

    rows = effective(operator_settings(), dev_file=DEV_FILE)
    if as_json:
        print_json(
            [{"name": name, "value": value, "origin": origin} for name, value, origin in rows]
        )
    else:
        print_table(["setting", "value", "origin"], [(n, v or None, o) for n, v, o in rows])


def demo(
    events: Annotated[
        int | None, typer.Option(help="How many of the flights.  [default: all 336,776]", min=1)
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep data and logs here.  [default: nowhere]")
    ] = None,
    page: Annotated[Path, typer.Option(help="Where the page with the picture is written.")] = Path(
        "veltrix-demo.html"
    ),
    as_json: AsJson = False,
) -> None:
    """Send real flights through everything and check it.

    A year of flights, posted over HTTP, with a worker killed midway. On a PostgreSQL and a
    RabbitMQ of its own. In the end: the counts, what they show in a sentence, and a page with a
    picture of it; or, with --json, one line. Exit code 0 only when nothing is open, unaccounted or
    done twice, a worker died at work, and the totals match the file; 130 after Ctrl-C.

    Example: veltrix demo --events 20000
    """
    from rich.console import Console

    from veltrix.dev.demo import run_demo
    from veltrix.dev.demo_page import made_here, page_of
    from veltrix.dev.demo_result import print_shown

    try:
        one_line = run_demo(events, folder=folder)
    except KeyboardInterrupt:
        typer.echo("veltrix: stopped before its end: nothing was shown, nothing runs", err=True)
        raise typer.Exit(130) from None
    page.write_text(page_of(one_line, made=made_here()), encoding="utf-8")
    if as_json:
        typer.echo(one_line.result.as_json_line())
    else:
        print_shown(one_line, Console())
    typer.echo(f"picture: {page.absolute()}", err=as_json)
    if not one_line.result.is_ok:
        raise typer.Exit(1)
