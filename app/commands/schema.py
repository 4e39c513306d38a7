"""`veltrix db`: the schema's version."""

from typing import Annotated

import typer

from app.commands.options import AsJson, Yes

group = typer.Typer(no_args_is_help=True, help="The database schema: upgrade, downgrade, show.")


@group.command()
def upgrade(
    revision: Annotated[str, typer.Argument(help="Revision to reach.")] = "head",
) -> None:
    """Bring the schema to the newest version, migration by migration; run it before new code.

    Old code runs on the new schema. Several at once wait for each other. With VELTRIX_PROVE it also
    makes the table into which the workflows of `veltrix prove` write.

    Example: veltrix db upgrade
    """
    from app.store import schema

    schema.upgrade(_url(), revision)
    _prepare_proofs()
    _show()


@group.command()
def downgrade(
    revision: Annotated[str, typer.Argument(help="Revision to go back to; `base` is empty.")],
    yes: Yes = False,
) -> None:
    """Take the schema back to an earlier version, with the data that only the later one holds.

    Example: veltrix db downgrade 0001
    """
    from app.store import schema

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
    from app.commands.terminal import print_json
    from app.store import schema

    found, is_enough = _version()
    if as_json:
        print_json({"revision": found, "head": schema.head(), "is_enough": is_enough})
    else:
        _show()
    if not is_enough:
        raise typer.Exit(1)


def _prepare_proofs() -> None:
    from app.commands.terminal import connected
    from app.store.prove_effects import make_table

    with connected() as (settings, engine):
        if settings.prove:
            make_table(engine)


def _show() -> None:
    from app.store import schema

    found, is_enough = _version()
    cure = "" if is_enough else f"; this code needs {schema.head()}: run `veltrix db upgrade`"
    typer.echo(f"schema {found or 'empty'}{cure}")


def _version() -> tuple[str | None, bool]:
    from app.commands.terminal import connected
    from app.store import schema
    from app.store.transactions import open_autocommit

    with connected() as (_, engine), open_autocommit(engine) as tx:
        return schema.revision_of(tx), schema.at_head(tx)


def _url() -> str:
    from app.commands.terminal import operator_settings
    from app.settings_load import require

    settings = operator_settings()
    require(settings, "database_url")
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()
