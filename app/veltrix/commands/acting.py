"""`veltrix replay run` and `veltrix cancel`: done to runs with an author and a reason."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.bulk import act_in_bulk
from veltrix.commands.options import AsJson, Author, Reason, Yes
from veltrix.domain.states import ReplayMode

if TYPE_CHECKING:
    from veltrix.commands.backend.port import Backend
    from veltrix.operations.replays.rules import ReplayRefused

LIST_RUNS_MAX = 1_000


RunIds = Annotated[list[str] | None, typer.Argument(help="The runs.", show_default=False)]

replay = typer.Typer(no_args_is_help=True, help="Run failed work again.")


@replay.command("run")
@over_http
def replay_run(
    reason: Reason,
    run_ids: RunIds = None,
    failed_of: Annotated[
        str | None, typer.Option(help="All failed runs of this workflow.", metavar="WORKFLOW")
    ] = None,
    begin: Annotated[
        ReplayMode, typer.Option("--from", help="Keep finished steps, or begin anew.")
    ] = ReplayMode.FAILED_STEP,
    author: Author = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make failed runs queued again, in their next generation.

    Exit code 1 when one of them is not failed.

    Example: veltrix replay run --failed-of fulfil_order --reason "payment is back"
    """
    from veltrix.commands.terminal import ids_of

    if bool(run_ids) == bool(failed_of):
        raise typer.BadParameter(
            "name the runs, or --failed-of with their workflow, not both", param_hint="RUN_IDS"
        )
    with reached(author) as backend:
        ids = ids_of(run_ids or []) if failed_of is None else _failed_of(backend, failed_of)
        if failed_of is not None and not _is_wanted(f"Replay {len(ids):,} failed runs", ids, yes):
            raise typer.Exit(1)
        answers = _in_lists(ids, lambda some: backend.replay_runs(some, begin, reason))
        _print(answers, as_json, replayed="Replayed")


@over_http
def cancel(
    reason: Reason,
    run_ids: RunIds = None,
    workflow: Annotated[str | None, typer.Option(help="All open runs of this workflow.")] = None,
    queue: Annotated[str | None, typer.Option(help="All open runs on this queue.")] = None,
    key: Annotated[str | None, typer.Option(help="All open runs with this key.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every open run there is.")] = False,
    author: Author = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Cancel open runs.

    At once, or before its next step where a worker has one in hand. Of runs that are named, those
    that are settled already are left alone, with exit code 1; of the others all are cancelled, or
    none.

    Example: veltrix cancel 0199d2c4-6f3a-7b21-9e55-1f7c86a9d0e3 --reason "order withdrawn"
    """
    from veltrix.commands.terminal import ids_of

    named = {"workflow": workflow, "queue": queue, "key": key}
    if not run_ids or everything or any(named.values()):
        act_in_bulk(
            *("cancel", run_ids, named),
            is_all=everything,
            reason=reason,
            author=author,
            yes=yes,
            as_json=as_json,
        )
        return
    ids = ids_of(run_ids)
    with reached(author) as backend:
        answers = _in_lists(ids, lambda some: backend.cancel_runs(some, reason))
        _print(answers, as_json, cancelled="Cancelled", requested="CancelRequested")


def refused_is_1(call: Any, as_json: bool) -> Any:
    """What the call gives. A refusal is told, with the runs it names, and is exit code 1."""
    from veltrix.commands.terminal import print_json
    from veltrix.operations.replays.rules import ReplayRefused

    try:
        return call()
    except ReplayRefused as refusal:
        if as_json:
            print_json({"refused": refusal.slug, "detail": str(refusal), **refusal.members})
        tell(refusal)
        raise typer.Exit(2 if refusal.slug == "invalid-options" else 1) from None


def tell(refusal: "ReplayRefused") -> None:
    """Why nothing was done, with the runs it names and what of them does not fit."""
    from veltrix.commands.terminal import one_line, print_error

    print_error(f"veltrix: {one_line(str(refusal))}")
    for run in refusal.members.get("runs", ()):
        what = run.get("message") or run.get("state") or "unknown"
        print_error(f"{run.get('id') or run.get('run')}  {one_line(what)}")
        for error in run.get("errors", ()):
            print_error(f"  {one_line(error['at'] or '/')}: {one_line(error['message'])}")


def _failed_of(backend: "Backend", workflow: str) -> list[str]:
    """All failed runs of the workflow now, oldest first: what fails later is not among them."""
    from veltrix.domain.states import RunState
    from veltrix.operations.runs.query import RunQuery

    wanted, cursor, ids = RunQuery(state=RunState.FAILED, workflow=workflow), None, []
    while True:
        found = backend.runs(wanted, cursor, LIST_RUNS_MAX)
        ids += [run.id for run in found.items]
        cursor = found.next
        if cursor is None:
            return ids[::-1]


def _is_wanted(question: str, ids: Sequence[str], yes: bool) -> bool:
    return not ids or yes or typer.confirm(f"{question}?", err=True)


def _in_lists(ids: Sequence[str], act: Callable[[Sequence[str]], Sequence[Any]]) -> Iterator[Any]:
    for first in range(0, len(ids), LIST_RUNS_MAX):
        yield from act(ids[first : first + LIST_RUNS_MAX])


def _print(answers: Iterator[Any], as_json: bool, **groups: str) -> None:
    """Each answer as it comes, or all of them by group: of the class of that name.

    Exit code 1 when some are in none.
    """
    from veltrix.commands.terminal import print_json

    found: dict[str, list[Any]] = {name: [] for name in groups}
    left: list[Any] = []
    for answer in answers:
        name = next((name for name, kind in groups.items() if type(answer).__name__ == kind), None)
        (left if name is None else found[name]).append(answer)
        if not as_json:
            typer.echo(_line(answer))
    if as_json:
        print_json({**found, f"not_{next(iter(groups))}": left})
    else:
        done = ", ".join(f"{len(some):,} {name}" for name, some in found.items())
        typer.echo(f"{done}, {len(left):,} not")
    if left:
        raise typer.Exit(1)


def _line(answer: Any) -> str:
    match type(answer).__name__:
        case "Replayed":
            kept = f"{answer.steps_kept} recorded entries kept"
            return f"{answer.run_id}  queued again as generation {answer.generation}, {kept}"
        case "Cancelled":
            return f"{answer.run_id}  cancelled"
        case "CancelRequested":
            return f"{answer.run_id}  a worker has it in hand; it ends before its next step"
    why = f"it is {answer.state}" if answer.state else "there is no such run"
    return f"{answer.run_id}  not done: {getattr(answer, 'why', None) or why}"
