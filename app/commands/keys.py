"""`veltrix keys`: API keys, shown once and kept as hashes."""

from typing import Annotated

import typer

from app.commands.options import AsJson, Author
from app.domain.scopes import Scope

group = typer.Typer(no_args_is_help=True, help="API keys: make, list, revoke.")

KEY_BYTES = 32
KEY_PREFIX = "vx_"  # so that scanners for leaked secrets can find one
Scopes = Annotated[
    list[Scope],
    typer.Option("--scope", help="What it may do; repeat for more.", show_default=False),
]


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will call; the author on what it does.")],
    scope: Scopes,
    author: Author = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    Running apis know it within seconds.

    Example: veltrix keys create shop --scope events:write
    """
    import secrets

    from app.commands.terminal import author_of, connected, print_error, print_json
    from app.store.keys import create
    from app.store.transactions import transaction

    token = KEY_PREFIX + secrets.token_hex(KEY_BYTES)
    with connected() as (_, engine), transaction(engine) as tx:
        create(tx, name, [one.value for one in scope], author_of(author), token)
    if as_json:
        print_json({"name": name, "scopes": sorted({one.value for one in scope}), "key": token})
    else:
        typer.echo(token)
        print_error("keep it now: it is not shown again; send it as `Authorization: Bearer KEY`")


@group.command("list")
def list_(as_json: AsJson = False) -> None:
    """List every key ever made, revoked ones too.

    Never the keys themselves: only their hashes are kept.

    Example: veltrix keys list
    """
    from app.commands.terminal import connected, print_json, print_table
    from app.store.keys import list_keys
    from app.store.transactions import open_autocommit

    with connected() as (_, engine), open_autocommit(engine) as tx:
        found = list_keys(tx)
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "scopes", "made", "by", "revoked"],
        [(k.name, " ".join(k.scopes), k.created_at, k.created_by, k.revoked_at) for k in found],
    )


@group.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")], as_json: AsJson = False
) -> None:
    """End a key; its name is not used again. Running apis refuse it within seconds.

    Exit code 1 when there is no such key that may still call.

    Example: veltrix keys revoke shop
    """
    from app.commands.terminal import connected, print_error, print_json
    from app.store.keys import revoke
    from app.store.transactions import transaction

    with connected() as (_, engine), transaction(engine) as tx:
        is_revoked = revoke(tx, name)
    if as_json:
        print_json({"name": name, "revoked": is_revoked})
    elif is_revoked:
        typer.echo(f"{name}  revoked")
    else:
        print_error(f"veltrix: no key {name!r} may call; see `veltrix keys list`")
    if not is_revoked:
        raise typer.Exit(1)
