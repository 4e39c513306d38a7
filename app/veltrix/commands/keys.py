"""`veltrix keys`: API keys, shown once and kept as hashes."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from veltrix.access.scopes import Scope
from veltrix.commands.options import AsJson, Author, Why

if TYPE_CHECKING:
    from veltrix.access.audit import Audited
    from veltrix.access.key_limits import KeyLimits

group = typer.Typer(no_args_is_help=True, help="API keys: make, list, revoke.")

KEY_BYTES = 32
KEY_PREFIX = "vx_"  # so that scanners for leaked secrets can find one
SOON_DAYS = 14
Scopes = Annotated[
    list[Scope],
    typer.Option("--scope", help="What it may do; repeat for more.", show_default=False),
]
_BOUND = "* is any run of characters; repeat for more."
Sources = Annotated[
    list[str] | None,
    typer.Option("--source", help=f"It sends only events of these sources; {_BOUND}"),
]
Types = Annotated[
    list[str] | None, typer.Option("--type", help=f"It sends only events of these types; {_BOUND}")
]
Workflows = Annotated[
    list[str] | None,
    typer.Option("--workflow", help=f"It starts and acts on these workflows only; {_BOUND}"),
]
Rate = Annotated[
    float | None,
    typer.Option(
        help="Calls a second to each api; each further event of a batch, or input, is one more."
    ),
]
Burst = Annotated[
    int | None, typer.Option(help="So many of them at once; without it those of a second.")
]
BodyBytesMax = Annotated[int | None, typer.Option(help="Bytes of the largest body it sends.")]
Expires = Annotated[
    str | None, typer.Option(help="It ends then: RFC 3339, or in 12h, in 90d, written 12h 90d.")
]


@group.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will call; the author on what it does.")],
    scope: Scopes,
    source: Sources = None,
    type_: Types = None,
    workflow: Workflows = None,
    rate: Rate = None,
    burst: Burst = None,
    body_bytes_max: BodyBytesMax = None,
    expires: Expires = None,
    author: Author = None,
    reason: Why = "",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept.

    Running apis know it within seconds. Bound to a source, type or workflow, it may send or do
    nothing else.

    Example: veltrix keys create shop --scope events:write --source '/shop/*' --expires 90d
    """
    import secrets

    from veltrix.access.audit import append
    from veltrix.access.key_limits import KeyLimits
    from veltrix.access.keys import create
    from veltrix.commands.backend.database_reads import DatabaseReads
    from veltrix.commands.options import end_of
    from veltrix.commands.terminal import author_of, connected, print_error, print_json
    from veltrix.store.transactions import transaction

    by = author_of(author)
    token = KEY_PREFIX + secrets.token_hex(KEY_BYTES)
    limits = KeyLimits(
        sources=tuple(source) if source else None,
        types=tuple(type_) if type_ else None,
        workflows=tuple(workflow) if workflow else None,
        rate=rate,
        burst=burst,
        body_bytes_max=body_bytes_max,
    )
    made: dict[str, Any] = {"scopes": sorted({one.value for one in scope})}
    if limits != KeyLimits():
        made["limits"] = msgspec.to_builtins(limits)
    with connected() as (_, engine):
        expires_at = end_of(expires, DatabaseReads(engine).now, "--expires")
        if expires_at is not None:
            made["expires_at"] = expires_at.isoformat()
        with transaction(engine) as tx:
            create(tx, name, made["scopes"], by, token, limits, expires_at)
            append(tx, [_audited("key.create", name, by, reason, made)])
    if as_json:
        print_json({"name": name, **made, "key": token})
    else:
        typer.echo(token)
        print_error("keep it now: it is not shown again; send it as `Authorization: Bearer KEY`")


@group.command("list")
def list_(as_json: AsJson = False) -> None:
    """List every key ever made, revoked ones too.

    Never the keys themselves: only their hashes are kept. Says which expire within 14 days.

    Example: veltrix keys list
    """
    from veltrix.access.keys import list_keys
    from veltrix.commands.terminal import connected, one_line, print_error, print_json, print_table
    from veltrix.pipeline.accept.ledger_rows import unix_s
    from veltrix.store.transactions import open_autocommit

    with connected() as (_, engine), open_autocommit(engine) as tx:
        found = list_keys(tx)
        now_s = unix_s(tx)
    if as_json:
        print_json(found)
    else:
        print_table(
            ["name", "scopes", "limits", "made", "by", "expires", "revoked"],
            [
                (
                    *(key.name, " ".join(key.scopes), _limits_text(key.limits), key.created_at),
                    *(key.created_by, key.expires_at, key.revoked_at),
                )
                for key in found
            ],
        )
    for key in found:
        if key.expires_at is None or key.revoked_at is not None:
            continue
        left_s = key.expires_at.timestamp() - now_s
        if left_s < SOON_DAYS * 86_400:
            print_error(
                f"veltrix: the key {one_line(key.name)} {'expires' if left_s > 0 else 'expired'} at"
                f" {one_line(key.expires_at)}; make the next one and move its caller over"
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
    from veltrix.access.audit import append
    from veltrix.access.keys import revoke
    from veltrix.commands.terminal import author_of, connected, print_error, print_json
    from veltrix.store.transactions import transaction

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


def _limits_text(limits: "KeyLimits | None") -> str | None:
    """The limits in a cell of a table."""
    if limits is None:
        return None
    given = msgspec.structs.asdict(limits)
    words = [
        f"{name}={'|'.join(value) if isinstance(value, tuple) else f'{value:g}'}"
        for name, value in given.items()
        if value is not None
    ]
    return " ".join(words)


def _audited(
    action: str,
    name: str,
    author: str,
    reason: str,
    request: dict[str, Any],
    *,
    is_refused: bool = False,
) -> "Audited":
    from veltrix.access.audit import Audited

    return Audited(
        author=author,
        action=action,
        reason=reason,
        target="key",
        target_id=name,
        request=request,
        is_refused=is_refused,
    )
