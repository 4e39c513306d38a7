"""What commands do to many runs at once: all of them, or none."""

from typing import TYPE_CHECKING, Any

import msgspec
import typer

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.operations.runs.bulk import BulkRequest


def act_in_bulk(
    action: str,
    run_ids: list[str] | None,
    named: dict[str, Any],
    *,
    is_all: bool = False,
    reason: str,
    author: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Do it to these runs, or after a question to those that a filter of these fields describes.

    Exit code 1 when nothing was done, with the sentence that says why.
    """
    from veltrix.commands.backend.reach import reached
    from veltrix.commands.mistakes import CommandRefused
    from veltrix.commands.terminal import ids_of
    from veltrix.operations.runs.action_rows import LIST_RUNS_MAX as IDS_MAX
    from veltrix.operations.runs.bulk import BulkAction, BulkRequest
    from veltrix.operations.runs.query import RunQuery

    wanted = RunQuery(ids=tuple(ids_of(run_ids)) if run_ids else None, **named)
    if bool(run_ids) == bool(wanted.conditions or is_all):
        raise typer.BadParameter(
            "name the runs, or say what they have in common (or --all), not both",
            param_hint="RUN_IDS",
        )
    if run_ids and len(run_ids) > IDS_MAX:
        raise CommandRefused(f"{len(run_ids):,} runs are named; name at most {IDS_MAX:,} at a time")
    request = BulkRequest(
        action=BulkAction(action),
        wanted=wanted,
        is_all=is_all,
        reason=reason,
        author="",
    )
    with reached(author) as backend:
        if not run_ids and not yes:
            request = msgspec.structs.replace(request, expected=_confirmed(backend, request))
        _do(backend, request, as_json)


def _confirmed(backend: "Backend", request: "BulkRequest") -> int:
    """How many runs somebody agreed to: exactly so many, or none. 0: nobody was asked."""
    found = backend.count(request.action, request.wanted)
    if not found:
        return 0  # what comes meanwhile is not done either, and the refusal is in the audit
    runs = "1 run" if found == 1 else f"{found:,} runs"
    typer.confirm(f"{request.action.capitalize()} {runs}?", abort=True, err=True)
    return found


def _do(backend: "Backend", request: "BulkRequest", as_json: bool) -> None:
    from veltrix.commands.terminal import one_line, print_error, print_json
    from veltrix.operations.runs.bulk import NotDone

    answer = backend.act(request)
    if as_json:
        print_json(answer)
    elif isinstance(answer, NotDone):
        print_error(f"veltrix: {one_line(answer.detail)}")
    else:
        later = f", {answer.requested:,} end before their next step" if answer.requested else ""
        typer.echo(f"{request.action}: {answer.runs:,} runs{later}")
    if isinstance(answer, NotDone):
        raise typer.Exit(1)
