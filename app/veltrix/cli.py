"""The `veltrix` command: assembles what `commands/` has and turns errors into exit codes.

Exit codes: 0 fine, 1 a finding or imbalance, 2 wrong use, wrong settings or something not there.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from veltrix.commands import (
    acting,
    audit,
    audit_verify,
    balance,
    config,
    dead_letters,
    edits,
    events,
    failures,
    init,
    keys,
    processes,
    prove,
    replays,
    runs,
    schema,
    send,
    topology,
    workflows,
)
from veltrix.commands.mistakes import sentences_of

HELP = """Events in, workflows out, every event accounted for.

`veltrix dev` runs everything here; docs/how-to/operating.md has the rest. Exit code 0: fine, 1: a
finding or an imbalance, 2: wrong use or settings."""

cli = typer.Typer(
    name="veltrix",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    init.init,
    processes.dev,
    config.demo,
    processes.api,
    processes.relay,
    processes.worker,
    processes.flower,
    send.send,
    runs.runs,
    runs.run,
    acting.cancel,
    balance.balance,
    prove.prove,
    config.config,
)
for command in _COMMANDS:
    cli.command()(command)
audit.group.command()(audit_verify.verify)
events.group.command("dead-letters")(dead_letters.dead_letters)
events.group.command("dead-letter")(dead_letters.dead_letter)
events.group.command("seen")(dead_letters.seen)
replays.group.command("edit")(edits.edit)
for group, name in (
    (audit.group, "audit"),
    (failures.group, "failures"),
    (replays.group, "replay"),
    (workflows.group, "workflows"),
    (events.group, "events"),
    (topology.group, "topology"),
    (keys.group, "keys"),
    (schema.group, "db"),
):
    cli.add_typer(group, name=name)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        # Which takes a moment that no other command needs to wait for.
        from importlib.metadata import version

        typer.echo(f"veltrix {version('veltrix')}")
        raise typer.Exit


@cli.callback()
def _options(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Say which release this is."
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def run(arguments: Sequence[str]) -> int:
    """Run a command line; its exit code. Expected errors are sentences on standard error."""
    try:
        cli(args=list(arguments), prog_name="veltrix")
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        sentences = sentences_of(error)
        if sentences is None:
            raise
        for sentence in sentences:
            typer.echo(f"veltrix: {sentence}", err=True)
        return 2
    return 0


def main() -> None:
    """The console script; workflows of the folder it stands in are found, as by `python -m`."""
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
