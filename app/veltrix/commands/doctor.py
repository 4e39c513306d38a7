"""`veltrix doctor`: what can lose, duplicate, stall or hide work, and the cure of each."""

import shutil
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veltrix.commands.options import AsJson, CaFile
from veltrix.doctor.rule import Severity

if TYPE_CHECKING:
    from veltrix.doctor.examine import Examination
    from veltrix.doctor.rule import Rule

_WIDTH_MAX = 100


class Profile(StrEnum):
    """What a deployment is for: in production nothing is implied by one node or an old broker."""

    SINGLE = "single"
    PRODUCTION = "production"


_Live = Annotated[bool, typer.Option("--live", help="Ask RabbitMQ and PostgreSQL, too.")]
_Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--files",
        help="Examine this file that deploys something, or those of this folder. May be repeated.",
        metavar="PATH",
    ),
]
_Readers = dict[type, Callable[[], object]]
_Watching = Annotated[bool, typer.Option("--watch", help="Go on looking, with canary events.")]
_FailOn = Annotated[
    Severity, typer.Option(help="Exit with 1 for findings as bad as this or worse.")
]
_Explained = Annotated[
    str | None, typer.Option(help="Tell the whole story of this rule.", metavar="ID")
]


def doctor(
    is_live: _Live = False,
    is_watching: _Watching = False,
    profile: Annotated[
        Profile, typer.Option(help="What is accepted of one node is not in production.")
    ] = Profile.SINGLE,
    celery_app: Annotated[
        str | None,
        typer.Option(help="Examine this Celery application instead.", metavar="MODULE:NAME"),
    ] = None,
    celery_config: Annotated[
        Path | None,
        typer.Option(help="Examine this module of Celery settings instead.", metavar="FILE"),
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Where its modules are imported from.", exists=True)
    ] = Path(),
    python: Annotated[
        str, typer.Option(help="The Python that imports it.  [default: this one]")
    ] = sys.executable,
    files: _Files = None,
    fail_on: _FailOn = Severity.STALL,
    explain: _Explained = None,
    is_listed: Annotated[bool, typer.Option("--list", help="List all rules.")] = False,
    is_sarif: Annotated[bool, typer.Option("--sarif", help="As SARIF 2.1.0.")] = False,
    as_json: AsJson = False,
    ca_file: CaFile = None,
) -> None:
    """Name every setting that can lose, duplicate, stall or hide work.

    Of this deployment: its settings and its compose file, and with --live what its servers have and
    say. With --files alone, of these. What VELTRIX_DOCTOR_ACCEPTED names does not count.
    Exit code 1 when something is found (see --fail-on), 2 when nothing could be checked. What could
    not be checked is listed, and is not fine.

    With --watch it goes on, and sends canary events; GET /v1/doctor and the console show it.

    Example: veltrix doctor --live
    """
    if is_watching:
        from veltrix.commands.doctor_watch import watch

        watch(ca_file, is_production=profile is Profile.PRODUCTION)
        return
    from veltrix.commands.mistakes import CommandRefused
    from veltrix.doctor.catalogue import all_rules
    from veltrix.doctor.examine import examine

    rules = list(all_rules())
    if explain is not None or is_listed:
        _tell_rules(rules, explain, as_json=as_json)
        return
    readers, accepted = (
        _of_platform(rules, files, is_live=is_live)
        if celery_app is None and celery_config is None
        else (_readers(celery_app, celery_config, folder, python, files), {})
    )
    found = examine(rules, readers, accepted, is_production=profile is Profile.PRODUCTION)
    _tell(found, rules, folder, is_sarif=is_sarif, as_json=as_json)
    if not found.held and not found.findings:
        raise CommandRefused("nothing could be checked; see above")
    if found.at_least(fail_on):
        raise typer.Exit(1)


def _readers(
    celery_app: str | None,
    celery_config: Path | None,
    folder: Path,
    python: str,
    files: list[Path] | None,
) -> _Readers:
    from veltrix.commands.mistakes import CommandRefused
    from veltrix.doctor.deployment import readers_of_files
    from veltrix.doctor.facts.celery_app import CeleryApp, import_config
    from veltrix.doctor.facts.celery_read import import_or_read

    if celery_app is not None and celery_config is not None:
        raise CommandRefused("name --celery-app or --celery-config, not both")
    readers = readers_of_files(files or _compose_files(folder), is_beside_app=True)
    if celery_config is not None:
        readers[CeleryApp] = lambda: import_config(celery_config, folder, python)
    else:
        readers[CeleryApp] = lambda: import_or_read(celery_app or "", folder, python)
    return readers


def _compose_files(folder: Path, naming: str = "") -> list[Path]:
    from veltrix.doctor.facts.deployment.files import compose_in

    return compose_in(folder, naming)


def _of_platform(
    rules: "list[Rule]", files: list[Path] | None, *, is_live: bool
) -> tuple[_Readers, dict[str, str]]:
    """What reads the facts of this deployment, or of files alone, and what it has accepted."""
    from veltrix.commands.mistakes import CommandRefused
    from veltrix.commands.terminal import operator_settings
    from veltrix.doctor.deployment import readers_of_files
    from veltrix.doctor.platform import readers_of
    from veltrix.settings.rules import accepted_findings

    settings = operator_settings()
    accepted = accepted_findings(settings.doctor_accepted)
    if unknown := sorted(accepted.keys() - {rule.id for rule in rules}):
        raise CommandRefused(
            f"VELTRIX_DOCTOR_ACCEPTED names {', '.join(unknown)}, and no rule has that id; take it"
            " out (`veltrix doctor --list` has all)"
        )
    of_files = readers_of_files(files or _compose_files(Path(), naming="veltrix"))
    if files and not is_live:
        return of_files, accepted
    return readers_of(settings, is_live=is_live) | of_files, accepted


def _tell(
    found: "Examination", rules: "list[Rule]", folder: Path, *, is_sarif: bool, as_json: bool
) -> None:
    if is_sarif:
        _print_sarif(found, rules, folder)
    elif as_json:
        _print_json(found)
    else:
        _print(found)


def _print(found: "Examination") -> None:
    from veltrix.doctor.report.text import Style, lines_of

    width = min(_WIDTH_MAX, shutil.get_terminal_size().columns)
    # Whether there are colours is for `typer.echo`, which takes them out where they do not belong.
    for line in lines_of(found, Style(has_colour=True), width):
        typer.echo(line)


def _print_json(found: "Examination") -> None:
    from veltrix.commands.terminal import print_json

    print_json({"findings": found.findings, "not_checked": found.not_checked, "held": found.held})


def _print_sarif(found: "Examination", rules: "list[Rule]", folder: Path) -> None:
    from importlib.metadata import version

    from veltrix.commands.terminal import print_json
    from veltrix.doctor.report.sarif import sarif

    print_json(sarif(found, rules, version("veltrix"), folder))


def _tell_rules(rules: "list[Rule]", explained: str | None, *, as_json: bool) -> None:
    if explained is None:
        _list(rules, as_json)
    else:
        _explain([rule for rule in rules if rule.id == explained.upper()], explained, rules)


def _explain(chosen: "list[Rule]", asked: str, rules: "list[Rule]") -> None:
    from veltrix.commands.mistakes import CommandRefused
    from veltrix.doctor.report.explain import explain

    if not chosen:
        near = sorted({rule.id for rule in rules if rule.id[:1] == asked[:1].upper()})
        told = f"; those of {asked[:1].upper()} are {', '.join(near)}" if near else ""
        raise CommandRefused(f"no rule is called {asked[:20]!r}{told}; --list has all")
    width = min(_WIDTH_MAX, shutil.get_terminal_size().columns)
    for line in explain(chosen, width):
        typer.echo(line)


def _list(rules: "list[Rule]", as_json: bool) -> None:
    from veltrix.commands.terminal import print_json, print_table

    if as_json:
        told: list[dict[str, Any]] = [
            {
                "id": rule.id,
                "severity": rule.severity,
                "subject": rule.subject,
                "title": rule.title,
                "why": rule.why,
                "safe": rule.safe,
                "source": rule.source,
                "reads": rule.reads.__name__,
            }
            for rule in rules
        ]
        print_json(told)
        return
    print_table(
        ["id", "severity", "subject", "what is looked for"],
        [(rule.id, rule.severity, rule.subject, rule.title) for rule in rules],
    )
