"""`veltrix keys`: API keys, shown once and kept as hashes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.options import AsJson, Author, Why
from app.domain.scopes import Scope

if TYPE_CHECKING:
    from app.store.audit import Audited

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
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    Running apis know it within seconds.

    Example: veltrix keys create shop --scope events:write
    """
    import secrets

    from app.commands.terminal import author_of, connected, print_error, print_json
    from app.store.audit import append
    from app.store.keys import create
    from app.store.transactions import transaction

    by = author_of(author)
    token = KEY_PREFIX + secrets.token_hex(KEY_BYTES)
    with connected() as (_, engine), transaction(engine) as tx:
        create(tx, name, [one.value for one in scope], by, token)
        scopes = {"scopes": sorted({one.value for one in scope})}
        append(tx, [_audited("key.create", name, by, reason, scopes)])
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
    name: Annotated[str, typer.Argument(help="The key's name.")],
    author: Author = None,
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """End a key; its name is not used again. Running apis refuse it within seconds.

    Exit code 1 when there is no such key that may still call.

    Example: veltrix keys revoke shop
    """
    from app.commands.terminal import author_of, connected, print_error, print_json
    from app.store.audit import append
    from app.store.keys import revoke
    from app.store.transactions import transaction

    with connected() as (_, engine), transaction(engine) as tx:
        is_revoked = revoke(tx, name)
        row = _audited("key.revoke", name, author_of(author), reason, {}, is_refused=not is_revoked)
        append(tx, [row])
    if as_json:
        print_json({"name": name, "revoked": is_revoked})
    elif is_revoked:
        typer.echo(f"{name}  revoked")
    else:
        print_error(f"veltrix: no key {name!r} may call; see `veltrix keys list`")
    if not is_revoked:
        raise typer.Exit(1)


def _audited(
    action: str,
    name: str,
    author: str,
    reason: str,
    request: dict[str, Any],
    *,
    is_refused: bool = False,
) -> "Audited":
    from app.store.audit import Audited

    return Audited(
        author=author,
        action=action,
        reason=reason,
        target="key",
        target_id=name,
        request=request,
        is_refused=is_refused,
    )
