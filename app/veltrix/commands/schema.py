"""`veltrix db`: the schema's version, and what each role may do to its tables."""

from typing import Annotated

import typer

from veltrix.commands.options import AsJson, Yes

group = typer.Typer(
    no_args_is_help=True, help="The database schema: upgrade, downgrade, show, grant."
)

_App = Annotated[str | None, typer.Option("--app", help="Role that the platform logs in as.")]
_Read = Annotated[str | None, typer.Option("--read", help="Role of those who only read.")]


@group.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="Revision to reach.")] = "head",
    app: _App = None,
    read: _Read = None,
) -> None:
    """Bring the schema to the newest version, migration by migration; run it before new code.

    Old code runs on the new schema. Several at once wait for each other. As the role of
    VELTRIX_DATABASE_OWNER_URL, or of VELTRIX_DATABASE_URL. With --app or --read it then grants
    these roles what they need, as `veltrix db grants --apply` does. With VELTRIX_PROVE it also
    makes the table into which the workflows of `veltrix prove` write.

    Example: veltrix db upgrade --app veltrix_app --read veltrix_read
    """
    from veltrix.store import schema

    schema.upgrade(_url(), revision)
    _prepare_proofs()
    _make_days()
    if app is not None or read is not None:
        _give(app, read)
    _show()


@group.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Revision to go back to; `base` is empty.")],
    yes: Yes = False,
) -> None:
    """Take the schema back to an earlier version, with the data that only the later one holds.

    Example: veltrix db downgrade 0001
    """
    from veltrix.store import schema

    if not yes:
        typer.confirm(
            f"Take the schema back to {revision}? Data of later versions is lost", abort=True
        )
    schema.downgrade(_url(), revision)
    _show()


@group.command()
def current(
    as_json: AsJson = False,
) -> None:
    """Show the schema's version; exit code 1 when this code needs a newer one.

    Example: veltrix db current
    """
    from veltrix.commands.terminal import print_json
    from veltrix.store import schema

    found, is_enough = _version()
    if as_json:
        print_json({"revision": found, "head": schema.head(), "is_enough": is_enough})
    else:
        _show()
    if not is_enough:
        raise typer.Exit(1)


@group.command()
def partition(as_json: AsJson = False) -> None:
    """Split the ledger into days, online, and show how it stands; `upgrade` does it to a small one.

    Old and new code go on meanwhile. Each step can be run again, so it may be interrupted. Rows are
    read once and not written: about a second for 5,000,000 of them. Runs that have ended are moved
    to their days by a relay, later. As the role of VELTRIX_DATABASE_OWNER_URL.

    Example: veltrix db partition
    """
    from veltrix.commands.terminal import connected, print_json
    from veltrix.store.history import days
    from veltrix.store.history.split import split
    from veltrix.store.transactions import open_autocommit

    with connected(as_owner=True) as (_, engine):
        split(engine, lambda step: typer.echo(step, err=True))
        _make_days()
        with open_autocommit(engine) as tx:
            found = days.look(tx)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"split into days; {found.ahead} of them are there from today on")
    if found.late:
        typer.echo(
            f"rows of days that were not made in time are in {', '.join(found.late)}: they are"
            " found, and stay where they are",
            err=True,
        )


def _make_days() -> None:
    from veltrix.commands.terminal import connected
    from veltrix.operations.history.days import make_ahead_once
    from veltrix.store.history import days
    from veltrix.store.transactions import open_autocommit

    with connected(as_owner=True) as (_, engine):
        make_ahead_once(engine)
        with open_autocommit(engine) as tx:
            if not days.look(tx).is_split:
                typer.echo(
                    "the ledger is large, and not split into days: run `veltrix db partition` when"
                    " it suits you; everything goes on meanwhile",
                    err=True,
                )


@group.command()
def grants(
    app: _App = None,
    read: _Read = None,
    is_applied: Annotated[
        bool, typer.Option("--apply", help="Run the statements instead of printing them.")
    ] = False,
) -> None:
    """Print what gives the roles exactly the rights they need, as SQL; or do it.

    The platform's role can add to the audit and not change it; the other reads everything but what
    opens a door (hashes of API keys, sessions). Both must be there, and be neither superuser nor
    owner. Run it as the tables' owner (VELTRIX_DATABASE_OWNER_URL), and again after each upgrade.

    Example: veltrix db grants --app veltrix_app --read veltrix_read --apply
    """
    from veltrix.commands.terminal import connected
    from veltrix.store.grants import grants
    from veltrix.store.transactions import open_autocommit

    if is_applied:
        _give(app, read)
        return
    with connected(as_owner=True) as (_, engine), open_autocommit(engine) as tx:
        for statement in grants(tx, app, read):
            typer.echo(f"{statement};")


def _give(app: str | None, read: str | None) -> None:
    from veltrix.commands.terminal import connected
    from veltrix.store.grants import give
    from veltrix.store.transactions import transaction

    with connected(as_owner=True) as (_, engine), transaction(engine) as tx:
        done = give(tx, app, read)
    roles = " and ".join(role for role in (app, read) if role is not None)
    typer.echo(f"{roles}: {len(done)} statements, and no other rights to our tables")


def _prepare_proofs() -> None:
    from veltrix.commands.terminal import connected
    from veltrix.store.prove_effects import make_table

    with connected(as_owner=True) as (settings, engine):
        if settings.prove:
            make_table(engine)


def _show() -> None:
    from veltrix.store import schema

    found, is_enough = _version()
    cure = "" if is_enough else f"; this code needs {schema.head()}: run `veltrix db upgrade`"
    typer.echo(f"schema {found or 'empty'}{cure}")


def _version() -> tuple[str | None, bool]:
    from veltrix.commands.terminal import connected
    from veltrix.store import schema
    from veltrix.store.transactions import open_autocommit

    with connected(as_owner=True) as (_, engine), open_autocommit(engine) as tx:
        return schema.revision_of(tx), schema.at_head(tx)


def _url() -> str:
    from veltrix.commands.terminal import operator_settings
    from veltrix.settings.load import as_owner, require

    settings = as_owner(operator_settings())
    require(settings, "database_url")
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()
