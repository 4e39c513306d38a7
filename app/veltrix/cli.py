"""The `veltrix` command: assembles what `commands/` has and turns errors into exit codes.

Exit codes: 0 fine, 1 a finding or imbalance, 2 wrong use, wrong settings or something not there,
3 an error that nobody expected.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from veltrix.commands import (
    acting,
    archive,
    audit,
    audit_verify,
    balance,
    config,
    dead_letters,
    doctor,
    edits,
    events,
    failures,
    init,
    keys,
    processes,
    prove,
    replays,
    retention,
    runs,
    schema,
    send,
    topology,
    workflows,
)
from veltrix.commands.grouped_help import in_groups
from veltrix.commands.mistakes import sentences_of
from veltrix.settings.command_line import is_debugging, take_from_env_file

HELP = """Events in, workflows out, every event accounted for.

`veltrix dev` runs everything here; docs/how-to/operating.md has the rest. Commands that look and
act ask the database, or with --url (VELTRIX_URL) an api. Exit code 0: fine, 1: a finding or an
imbalance, 2: wrong use or settings, 3: an error that nobody expected."""

cli = typer.Typer(
    name="veltrix",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)
_BEGIN, _LOOK, _ACT, _RUN, _SET_UP = (
    "Begin, send and try",
    "Look",
    "Act on runs and failures",
    "Processes",
    "Set up and keep",
)
_COMMANDS: tuple[tuple[str, Callable[..., None]], ...] = (
    (_BEGIN, init.init),
    (_BEGIN, processes.dev),
    (_BEGIN, send.send),
    (_BEGIN, config.demo),
    (_BEGIN, prove.prove),
    (_LOOK, balance.balance),
    (_LOOK, doctor.doctor),
    (_LOOK, runs.runs),
    (_LOOK, runs.run),
    (_ACT, acting.cancel),
    (_RUN, processes.api),
    (_RUN, processes.relay),
    (_RUN, processes.worker),
    (_RUN, processes.flower),
    (_SET_UP, config.config),
)
for panel, command in _COMMANDS:
    cli.command(rich_help_panel=panel)(command)
audit.group.command()(audit_verify.verify)
events.group.command("dead-letters")(dead_letters.dead_letters)
events.group.command("dead-letter")(dead_letters.dead_letter)
events.group.command("seen")(dead_letters.seen)
replays.group.command("edit")(edits.edit)
for panel, group, name in (
    (_LOOK, events.group, "events"),
    (_LOOK, workflows.group, "workflows"),
    (_LOOK, audit.group, "audit"),
    (_ACT, failures.group, "failures"),
    (_ACT, replays.group, "replay"),
    (_SET_UP, topology.group, "topology"),
    (_SET_UP, keys.group, "keys"),
    (_SET_UP, schema.group, "db"),
    (_SET_UP, retention.group, "retention"),
    (_SET_UP, archive.group, "archive"),
):
    cli.add_typer(group, name=name, rich_help_panel=panel)
in_groups(cli)
# What they say beside their lines of log is a traceback: they run where nobody reads a sentence.
_PROCESSES = frozenset({"api", "relay", "worker", "flower", "dev", "demo", "prove"})
_UNEXPECTED = 3


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
    _debug: Annotated[
        bool,
        typer.Option("--debug", help="With errors, where they come from; as VELTRIX_DEBUG=1."),
    ] = False,
) -> None:
    """What stands before a command."""


def run(arguments: Sequence[str]) -> int:
    """Run a command line; its exit code. Errors are sentences on standard error."""
    try:
        cli(args=list(arguments), prog_name="veltrix")
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        sentences = sentences_of(error)
        if sentences is None and arguments[0] in _PROCESSES:
            raise
        if "--debug" in arguments[:1] or is_debugging():
            traceback.print_exception(error)
        if sentences is None:
            typer.echo(
                f"veltrix: an error that nobody expected: {type(error).__name__}: {error}; please"
                " tell us, with what `veltrix --debug` and the same command show",
                err=True,
            )
            return _UNEXPECTED
        for sentence in sentences:
            typer.echo(f"veltrix: {sentence}", err=True)
        return 2
    return 0


def main() -> None:
    """The console script; workflows of the folder it stands in are found, as by `python -m`."""
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    take_from_env_file()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
