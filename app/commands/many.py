"""What commands do to many runs at once: all of them, or none."""

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from app.pipeline.many import Asked


def act_on(
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
    from app.commands.terminal import author_of, connected, ids_of
    from app.pipeline.many import Action, Asked
    from app.store.reads import RunFilter

    given = {name: value for name, value in named.items() if value is not None}
    if bool(run_ids) == bool(given or is_all):
        raise typer.BadParameter("name runs, or what they have in common", param_hint="RUN_IDS")
    if not run_ids and not yes:
        typer.confirm(f"{action.capitalize()} every such run?", abort=True, err=True)
    asked = Asked(
        action=Action(action),
        ids=ids_of(run_ids) if run_ids else None,
        wanted=RunFilter(**given) if given else None,
        is_all=is_all,
        reason=reason,
        author=author_of(author),
    )
    with connected() as (_, engine):
        _do(engine, asked, as_json)


def _do(engine: Any, asked: "Asked", as_json: bool) -> None:
    from app.commands.terminal import print_error, print_json, shown
    from app.pipeline.many import NotDone, act

    answer = act(engine, asked)
    if as_json:
        print_json(answer)
    elif isinstance(answer, NotDone):
        print_error(f"veltrix: {shown(answer.detail)}")
    else:
        later = f", {answer.requested:,} end before their next step" if answer.requested else ""
        typer.echo(f"{asked.action}: {answer.runs:,} runs{later}")
    if isinstance(answer, NotDone):
        raise typer.Exit(1)
