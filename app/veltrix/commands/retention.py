"""`veltrix retention show|plan|apply`: for how long history is kept, and what may leave by that."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.options import AsJson, Author, Reason, Yes
from veltrix.domain.text import size_text
from veltrix.operations.retention.rules import (
    DAY_S,
    DEFAULTS,
    PolicyOutcome,
    RetentionPolicy,
    Stays,
)

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.operations.retention.plan import RetentionDay, RetentionPlan

group = typer.Typer(no_args_is_help=True, help="Retention: how long history is kept.")

_NEVER = "never"
_SPAN = re.compile(r"(\d{1,9})([hd])")
_UNITS = {"h": 3_600, "d": DAY_S}
_UNUSUAL = (Stays.ASTRAY, Stays.NEVER)  # columns that are there when something is in them
_Workflow = Annotated[
    str, typer.Option(help="Of this workflow; without it, of every one without its own policy.")
]
_Outcomes = Annotated[
    list[PolicyOutcome] | None, typer.Option("--outcome", help="What ended so; repeat for more.")
]
_Content = Annotated[
    str | None, typer.Option(help="Keep payloads and outputs so long: 30d 720h never.")
]
_Lines = Annotated[
    str | None,
    typer.Option(help="Keep what the books have of it so long.  [default: 400d or --content]"),
]
_Defaults = Annotated[bool, typer.Option("--defaults", help="The usual policies.")]


@group.command()
@over_http
def show(as_json: AsJson = False) -> None:
    """Show the policies in force. What none is about is kept for ever.

    Example: veltrix retention show
    """
    from veltrix.commands.terminal import print_json, print_table

    with reached() as backend:
        found = backend.retention()
    if as_json:
        print_json(found)
    elif not found.policies:
        typer.echo("no policy is in force: everything is kept")
    else:
        print_table(
            ["workflow", "outcome", "content", "lines", "since", "by"],
            [
                (p.workflow or "every", p.outcome, told(p.content_s), told(p.lines_s), p.changed_at,
                 p.changed_by)
                for p in found.policies
            ],
        )  # fmt: skip


@group.command()
@over_http
def plan(
    workflow: _Workflow = "",
    outcome: _Outcomes = None,
    content: _Content = None,
    lines: _Lines = None,
    defaults: _Defaults = False,
    as_json: AsJson = False,
) -> None:
    """Show what may leave, day by day, and what stays and why. Nothing is changed.

    Under the policies in force; or as if those that are described here were, too.

    Example: veltrix retention plan --outcome succeeded --outcome cancelled --content 30d
    """
    from veltrix.commands.terminal import print_json

    proposed = _proposed(workflow, outcome, content, lines, defaults)
    with reached() as backend:
        found = _whole(backend, proposed)
    if as_json:
        print_json(found)
    else:
        _print(found)


@group.command()
@over_http
def apply(
    reason: Reason,
    workflow: _Workflow = "",
    outcome: _Outcomes = None,
    content: _Content = None,
    lines: _Lines = None,
    defaults: _Defaults = False,
    author: Author = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Put policies in force: shows what may leave by them, and asks.

    Other policies stay as they are. From then on a drop may take what they let go.

    Example: veltrix retention apply --defaults --reason "as agreed with the data officer"
    """
    from veltrix.commands.terminal import print_json

    proposed = _proposed(workflow, outcome, content, lines, defaults)
    if not proposed:
        raise typer.BadParameter(
            "say which: --defaults, or --outcome with --content", param_hint="--outcome"
        )
    with reached(author) as backend:
        found = _whole(backend, proposed)
        if not as_json:
            _print(found)
        leaving = sum(day.leaving for day in found.days)
        question = f"Put these in force, by which {leaving:,} events may leave now?"
        if not yes and not typer.confirm(question, err=True):
            raise typer.Exit(1)
        policies = backend.set_retention(proposed, reason)
    if as_json:
        print_json({"plan": found, "policies": policies})
    else:
        typer.echo(f"in force: {len(policies):,} policies; `veltrix retention show` lists them")


@group.command()
def drop(
    archive: Annotated[
        Path | None, typer.Option(help="Archive what leaves in this folder first.")
    ] = None,
    all_days: Annotated[
        bool, typer.Option("--all", help="One day after the other, until none is due.")
    ] = False,
    author: Author = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drop the oldest day of which half may leave by the policies in force; run it every night.

    What stays of the day stays where it is. What leaves is counted in the books, archived if a
    folder is named, and leaves a line. Each step can be ended and gone on with, Ctrl-C too. As the
    role of VELTRIX_DATABASE_OWNER_URL: the platform itself cannot drop.

    Example: veltrix retention drop --all --archive /srv/veltrix-archive --yes
    """
    from veltrix.commands.ctrl_c import CtrlC
    from veltrix.commands.terminal import author_of, connected, print_json
    from veltrix.operations.retention.drop import drop_next, due, forget_old

    dropped = []
    with connected(as_owner=True) as (_, engine), CtrlC() as ctrl_c:
        if not yes:
            found = due(engine)
            if found is None:
                typer.echo("no day is due to leave; `veltrix retention plan` says why", err=True)
                return
            where = "" if archive is None else f" to {archive}"
            typer.confirm(
                f"Drop {found.leaving:,} events of {found.part}{where}? {found.staying:,} stay",
                abort=True,
                err=True,
            )
        while True:
            done = drop_next(
                engine,
                author=author_of(author),
                archive=archive,
                tell=lambda step: typer.echo(step, err=True),
                is_stopped=lambda: ctrl_c.is_pressed,
            )
            if done is not None:
                dropped.append(done)
            if done is None or ctrl_c.is_pressed or not all_days:
                break
        if not ctrl_c.is_pressed:
            forget_old(engine, lambda step: typer.echo(step, err=True))
    if as_json:
        print_json(dropped)
    elif not dropped:
        typer.echo("no day is due to leave; `veltrix retention plan` says why", err=True)


def told(seconds: int | None) -> str:
    """How long that is, in the largest unit that it is a whole number of."""
    if seconds is None:
        return _NEVER
    return f"{seconds // DAY_S} d" if seconds % DAY_S == 0 else f"{seconds / 3_600:g} h"


def _proposed(
    workflow: str,
    outcomes: Sequence[PolicyOutcome] | None,
    content: str | None,
    lines: str | None,
    defaults: bool,
) -> list[RetentionPolicy]:
    if defaults:
        if workflow or outcomes or content or lines:
            raise typer.BadParameter(
                "give --defaults, or a policy of your own, not both", param_hint="--defaults"
            )
        return list(DEFAULTS)
    if not (outcomes or content or lines or workflow):
        return []
    if not outcomes or content is None:
        raise typer.BadParameter(
            "a policy needs both: --outcome, and --content with how long", param_hint="--outcome"
        )
    content_s = _seconds(content, "--content")
    lines_s = _lines_of(content_s) if lines is None else _seconds(lines, "--lines")
    return [RetentionPolicy(workflow, one, content_s, lines_s) for one in outcomes]


def _lines_of(content_s: int | None) -> int | None:
    return None if content_s is None else max(content_s, 400 * DAY_S)


def _seconds(text: str, option: str) -> int | None:
    if text == _NEVER:
        return None
    span = _SPAN.fullmatch(text)
    if span is None:
        raise typer.BadParameter(
            f"{text!r} is no time to keep things for; write 30d, 720h or never", param_hint=option
        )
    return int(span[1]) * _UNITS[span[2]]


def _whole(backend: "Backend", proposed: Sequence[RetentionPolicy]) -> "RetentionPlan":
    """All pages of the plan as one."""
    import msgspec

    from veltrix.commands.progress import Progress

    days: list[RetentionDay] = []
    cursor = None
    with Progress("events looked at", None) as progress:
        while True:
            page = backend.retention_plan(proposed, cursor)
            days += page.days
            progress.show(sum(day.events for day in days))
            if page.next is None:
                return msgspec.structs.replace(page, days=_joined(days))
            cursor = page.next


def _joined(days: "Sequence[RetentionDay]") -> "list[RetentionDay]":
    """The days, of which a page may have had a part each."""
    found: list[RetentionDay] = []
    for day in days:
        if found and found[-1].since.date() == day.since.date():
            found[-1] = found[-1].with_rest(day)
        else:
            found.append(day)
    return found


def _print(found: "RetentionPlan") -> None:
    from veltrix.commands.terminal import print_table

    if not found.policies:
        typer.echo(
            "no policy is in force: everything is kept; --defaults shows what the usual ones"
            " would let go"
        )
        return
    for policy in found.policies:
        name = policy.workflow or "every workflow"
        lines = f"content {told(policy.content_s)}, lines {told(policy.lines_s)}"
        typer.echo(f"{policy.outcome} of {name}: {lines}")
    stays = [one for one in Stays if one not in _UNUSUAL or _sum(found.days, one)]
    print_table(
        ["day", "events", "may leave", "about", *(one.value for one in stays)],
        [
            (
                f"{day.since:%Y-%m-%d}",
                day.events,
                day.leaving,
                size_text(day.bytes),
                *(getattr(day.stay, one.value) for one in stays),
            )
            for day in found.days
        ],
        spare=[one.value for one in stays],
    )
    events, leaving = (sum(getattr(day, n) for day in found.days) for n in ("events", "leaving"))
    size = size_text(sum(day.bytes for day in found.days))
    typer.echo(
        f"{leaving:,} of {events:,} events may leave, about {size}; what was accepted since"
        f" {found.young_since:%Y-%m-%d} is too young"
        if found.young_since is not None
        else "these policies let nothing go"
    )


def _sum(days: "Sequence[RetentionDay]", stays: Stays) -> int:
    return sum(getattr(day.stay, stays.value) for day in days)
