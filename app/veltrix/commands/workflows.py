"""`veltrix workflows`: what can be started, and by which events."""

from typing import Annotated

import typer

from veltrix.commands.backend.reach import over_http, reached
from veltrix.commands.options import AsJson, Author, Why, Yes

group = typer.Typer(no_args_is_help=True, help="Workflows: which there are, register, retire.")


@group.command("list")
@over_http
def list_(as_json: AsJson = False) -> None:
    """List the workflows that can be started, with the event types that start them.

    `workers` are the worker children that have the code which routes. Queues with open runs that no
    worker serves are named below.

    Example: veltrix workflows list
    """
    from veltrix.commands.terminal import print_json, print_table, print_unserved

    with reached() as backend:
        found, bare = backend.workflows(), backend.unserved()
    if as_json:
        print_json(found)
        return
    print_table(
        ["workflow", "started by", "queue", "since", "code", "workers", "about"],
        [
            (
                s.workflow,
                ", ".join(s.types) or "name only",
                s.queue,
                s.since,
                s.code_version + (f" (back from {s.replaced})" if s.is_back else ""),
                s.children,
                s.options.get("description"),
            )
            for s in found
        ],
        spare=("about", "since", "code"),
    )
    print_unserved(bare)


@group.command()
def register(
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Only begin workflows that nothing routes yet."),
    ] = False,
    author: Author = None,
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """Deploy what the modules in VELTRIX_WORKFLOWS subscribe to; workers do it at start as well.

    From now on events go by this code, and into its queues: before its workers are there they wait
    for them. When none has come within VELTRIX_DEPLOY_GRACE_S, what workers have counts again. So
    it is a roll-back, too. With --keep it only lets events of a new workflow wait for its workers.

    Example: VELTRIX_WORKFLOWS=workflows veltrix workflows register
    """
    from veltrix.bootstrap import workflows_of
    from veltrix.commands.terminal import author_of, connected, print_json
    from veltrix.releases.register import register_by_hand
    from veltrix.releases.registrable import mistakes_of, registered_names
    from veltrix.settings.load import SettingsError
    from veltrix.store.transactions import transaction

    with connected() as (settings, engine):
        workflows = workflows_of(settings)
        with transaction(engine) as tx:
            mistakes = mistakes_of(workflows, registered_names(tx))
            if mistakes:
                raise SettingsError(list(mistakes.values()))
            new = register_by_hand(
                tx,
                workflows,
                restart_s=settings.deploy_grace_s,
                is_kept=keep,
                author=author_of(author),
                reason=reason,
            )
    if as_json:
        print_json({"registered": sorted(workflows), "new": new})
        return
    for name, (_, version) in workflows.items():
        typer.echo(f"{name}  code {version}{'  new' if name in new else ''}")


@group.command()
def retire(
    names: Annotated[list[str], typer.Argument(help="The workflows.", show_default=False)],
    author: Author = None,
    reason: Why = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """End subscriptions: events start these workflows no longer; their open runs go on.

    A worker that still has the code takes the subscription up again when it starts. Exit code 1
    when one of the names has no subscription.

    Example: veltrix workflows retire fulfil_order_v1 --reason "fulfil_order has replaced it"
    """
    from veltrix.access.audit import Audited, append
    from veltrix.commands.terminal import author_of, connected, print_error, print_json
    from veltrix.releases.subscription_rows import retire
    from veltrix.store.transactions import transaction

    if not yes:
        typer.confirm(
            f"Events will start {', '.join(names)} no longer; open runs go on. Retire?",
            abort=True,
            err=True,
        )
    with connected() as (_, engine), transaction(engine) as tx:
        retired = retire(tx, names)
        row = Audited(
            author=author_of(author),
            action="workflow.retire",
            reason=reason,
            target="workflow",
            target_id=names[0] if len(names) == 1 else None,
            request={"names": names},
            result={"retired": retired},
            is_refused=not retired,
        )
        append(tx, [row])
    unknown = sorted(set(names) - set(retired))
    if as_json:
        print_json({"retired": retired, "unknown": unknown})
    else:
        for name in retired:
            typer.echo(f"{name}  retired")
        for name in unknown:
            print_error(f"veltrix: {name!r} has no subscription; see `veltrix workflows list`")
    if unknown:
        raise typer.Exit(1)
