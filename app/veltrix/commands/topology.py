"""`veltrix topology`: what RabbitMQ has, what it should have, and bringing it there."""

from typing import TYPE_CHECKING, Annotated

import typer

from veltrix.commands.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Iterable

    from veltrix.broker.topology import Change, LiveTopology, Topology
    from veltrix.settings.fields import Settings

group = typer.Typer(no_args_is_help=True, help="RabbitMQ's exchanges, queues and policies.")

Queues = Annotated[
    str | None,
    typer.Option(
        help="Workflow queues, separated by commas; without it those of the subscriptions in the"
        " database, or of VELTRIX_WORKFLOWS while there are none."
    ),
]


@group.command()
def show(queues: Queues = None, as_json: AsJson = False) -> None:
    """Show what RabbitMQ has of ours now.

    Example: veltrix topology show
    """
    from veltrix.commands.terminal import operator_settings, print_json, print_table

    settings = operator_settings()
    target = _target(settings, queues)
    live = _live(settings, target)
    found = [live.queues[q.name] for q in target.queues if q.name in live.queues]
    exchanges = [live.exchanges[x.name] for x in target.exchanges if x.name in live.exchanges]
    if as_json:
        policies = None if live.policies is None else list(live.policies.values())
        print_json({"exchanges": exchanges, "queues": found, "policies": policies})
        return
    print_table(["exchange", "type"], [(x.name, x.type) for x in exchanges])
    typer.echo()
    print_table(
        ["queue", "type", "messages", "consumers"],
        [(q.name, q.type, q.messages, q.consumers) for q in found],
    )
    typer.echo()
    if live.policies is None:
        typer.echo("policies: not known; set VELTRIX_MANAGEMENT_URL")
        return
    print_table(
        ["policy", "queues", "limits"],
        [(p.name, p.pattern, p.definition) for p in live.policies.values()],
    )


@group.command()
def plan(queues: Queues = None, as_json: AsJson = False) -> None:
    """Show what `apply` would do, changing nothing. Exit code 1 when there is something to do.

    Example: veltrix topology plan
    """
    from veltrix.commands.terminal import operator_settings

    settings = operator_settings()
    changes = _changes(settings, queues)
    _print(settings, changes, as_json)
    if changes:
        raise typer.Exit(1)


@group.command()
def apply(queues: Queues = None, as_json: AsJson = False) -> None:
    """Make what is missing or different.

    Refuses the whole of it when something would need a deletion. Policies need
    VELTRIX_MANAGEMENT_URL, or a definitions file.

    Example: veltrix topology apply
    """
    from veltrix.broker.connect import broker_url, close_connection, open_connection
    from veltrix.broker.topology import apply
    from veltrix.commands.terminal import operator_settings
    from veltrix.policies import management_of

    settings = operator_settings()
    changes = _changes(settings, queues)
    management = management_of(settings)
    if changes:
        connection = open_connection(
            broker_url(settings),
            name="veltrix topology",
            heartbeat_s=settings.broker_heartbeat_s,
        )
        try:
            apply(changes, connection.channel(), management.put_policy if management else None)
        finally:
            close_connection(connection)
    _print(settings, changes, as_json)


@group.command()
def definitions(
    queues: Queues = None,
    vhost: Annotated[str, typer.Option(help="Virtual host.")] = "/",
) -> None:
    """Print a definitions file for RabbitMQ.

    A node that lost everything boots with it. Without a database it takes the queues of
    VELTRIX_WORKFLOWS.

    Example: veltrix topology definitions > definitions.json
    """
    from veltrix.broker.topology import definitions
    from veltrix.commands.terminal import operator_settings, print_json
    from veltrix.policies import limits_of

    settings = operator_settings()
    names = _queues(settings, queues)
    print_json(definitions(names, vhost, limits_of(settings), settings.queue_type))


@group.command()
def users(
    queues: Annotated[
        str | None,
        typer.Option(
            help="Workflow queues that workers may serve, separated by commas; without it all."
        ),
    ] = None,
    vhost: Annotated[str, typer.Option(help="Virtual host.")] = "/",
    as_json: AsJson = False,
) -> None:
    """Print the users of RabbitMQ: one for each process, with no more rights than it needs.

    As commands for a shell on RabbitMQ's host, which ask for a password each. With --json only the
    rights, as a definitions file for users that are there. Asks nobody, changes nothing.

    Example: veltrix topology users --vhost shop
    """
    from veltrix.broker.rights import commands, permissions
    from veltrix.commands.terminal import print_json

    names = _checked((queues or "").split(","))
    if as_json:
        print_json(permissions(vhost, names))
        return
    for line in commands(vhost, names):
        typer.echo(line)


def _queues(settings: "Settings", given: str | None) -> list[str]:
    """The workflow queues. Raises CommandRefused for a name that cannot be one."""
    from veltrix.bootstrap import engine_for, workflows_of
    from veltrix.pipeline.relay.due_rows import queues_subscribed
    from veltrix.store.transactions import open_autocommit

    names = _checked((given or "").split(","))
    if not names and settings.database_url is not None:
        engine = engine_for(settings, "veltrix-operator")
        with open_autocommit(engine) as tx:
            names = list(queues_subscribed(tx))
        engine.dispose()
    if not names:
        names = [workflow.queue for workflow, _ in workflows_of(settings).values()]
    return _checked(names)


def _checked(names: "Iterable[str]") -> list[str]:
    """In order, each once, none empty. Raises CommandRefused for what cannot be a queue's."""
    from veltrix.broker.topology import check_queue_name
    from veltrix.commands.mistakes import CommandRefused

    wanted = sorted({name.strip() for name in names} - {""})
    try:
        for name in wanted:
            check_queue_name(name)
    except ValueError as error:
        raise CommandRefused(str(error)) from None
    return wanted


def _target(settings: "Settings", queues: str | None) -> "Topology":
    from veltrix.broker.topology import wanted
    from veltrix.policies import limits_of

    return wanted(_queues(settings, queues), limits_of(settings), settings.queue_type)


def _live(settings: "Settings", target: "Topology") -> "LiveTopology":
    from veltrix.broker.connect import broker_url
    from veltrix.broker.management import live_by_amqp
    from veltrix.policies import management_of
    from veltrix.settings.load import require

    require(settings, "broker_url")
    management = management_of(settings)
    if management is not None:
        return management.live()
    return live_by_amqp(broker_url(settings), target)


def _changes(settings: "Settings", queues: str | None) -> "list[Change]":
    from veltrix.broker.topology import plan

    target = _target(settings, queues)
    return plan(_live(settings, target), target)


def _print(settings: "Settings", changes: "list[Change]", as_json: bool) -> None:
    from veltrix.commands.terminal import print_error, print_json

    if as_json:
        print_json([{"change": str(change), "refused": change.refused} for change in changes])
    else:
        for change in changes:
            typer.echo(str(change))
        if not changes:
            typer.echo("nothing to do")
    if settings.management_url is None:
        print_error(
            "policies are not looked at: set VELTRIX_MANAGEMENT_URL, or boot RabbitMQ with"
            " `veltrix topology definitions`"
        )
