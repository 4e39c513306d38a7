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
    as_json: AsJson = False,
) -> None:
    """Send real flights through everything and check it.

    A year of flights, posted over HTTP, with a worker killed midway. On a PostgreSQL and a
    RabbitMQ of its own. The last line is JSON. Exit code 0 only when nothing
    is open, unaccounted or done twice, a worker died at work, and the totals match the file.

    Example: veltrix demo --events 20000 --json
    """
    from veltrix.dev.demo import run_demo

    result = run_demo(events, folder=folder, as_json=as_json)
    typer.echo(result.as_json_line())
    if not result.is_ok:
        raise typer.Exit(1)
