"""API keys: rows that hold a hash, never the key.

The hash is plain SHA-256, without salt or stretching: a key is 256 random bits, so there is nothing
to guess and no table of guesses to prepare, and a look-up per request must cost microseconds.
"""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from veltrix.access.key_limits import KeyLimits, mistake_of
from veltrix.access.scopes import ALL_SCOPES, Scope, unknown_scopes
from veltrix.domain.events import CANARY_SOURCE
from veltrix.store.access_tables import api_keys

ADMIN_NAME = "admin"
DOCTOR_NAME = "veltrix-doctor"
# Authors of what nobody's key did, and the keys of VELTRIX_ADMIN_KEY_FILE and _DOCTOR_KEY_FILE.
OWN_NAMES = frozenset(
    {
        *(ADMIN_NAME, DOCTOR_NAME, "local", "preview", "veltrix"),
        *("veltrix_admin_key_file", "veltrix_doctor_key_file"),
    }
)
TOKEN_CHARS_MIN = 32
_LIMITS = [api_keys.c[name] for name in KeyLimits.__struct_fields__]


class KeyRow(msgspec.Struct, frozen=True):
    """A key as operators see it. `revoked_at` None: it may call, until it expires."""

    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
    expires_at: datetime | None = None
    limits: KeyLimits | None = None


class ActiveKey(msgspec.Struct, frozen=True):
    """A key as the api compares it. `left_s`: so long until it expires; below 0 it has."""

    hash: bytes
    name: str
    scopes: tuple[str, ...]
    limits: KeyLimits | None = None
    expires_at: datetime | None = None
    left_s: float | None = None


class KeyRefused(Exception):
    """The key cannot be made; the message says why and what to do."""


def hash_of(token: str) -> bytes:
    """What the table keeps of a key."""
    return sha256(token.encode()).digest()


def create(
    tx: Connection,
    name: str,
    scopes: Sequence[str],
    created_by: str,
    token: str,
    limits: KeyLimits | None = None,
    expires_at: datetime | None = None,
) -> None:
    """Make `token` a key with this name. Raises KeyRefused when that cannot be.

    A name is never used twice, not even after a revoke: it is the author on runs and actions.
    """
    _check(name, scopes, token)
    if limits is not None and (mistake := mistake_of(limits)):
        raise KeyRefused(mistake)
    if expires_at is not None and expires_at <= tx.execute(select(func.now())).scalar_one():
        raise KeyRefused("a key expires later than now")
    if name.lower() in OWN_NAMES:
        raise KeyRefused(f"{name!r} is an author that Veltrix itself writes; choose another name")
    row = {
        "name": name,
        "hash": hash_of(token),
        "scopes": sorted(set(scopes)),
        "created_by": created_by,
        "expires_at": expires_at,
        **(msgspec.structs.asdict(limits) if limits is not None else {}),
    }
    put = insert(api_keys).values(row).on_conflict_do_nothing().returning(api_keys.c.name)
    if tx.execute(put).first() is None:
        raise KeyRefused(
            f"the name {name!r} is taken; `veltrix keys list` shows all, choose another"
        )


def put_admin(tx: Connection, token: str) -> bool:
    """Make the content of the admin key file the key `admin`, with every scope.

    Another content replaces the key; the same content changes nothing, so a revoked key stays so.
    Whether it changed.
    Raises KeyRefused when the token is too short to be random.
    """
    return _put(tx, ADMIN_NAME, Scope.ADMIN, token, "VELTRIX_ADMIN_KEY_FILE")


def put_doctor(tx: Connection, token: str) -> bool:
    """As `put_admin`, for the content of the doctor's key file: it sends canary events only."""
    only = KeyLimits(sources=(CANARY_SOURCE,))
    return _put(tx, DOCTOR_NAME, Scope.EVENTS_WRITE, token, "VELTRIX_DOCTOR_KEY_FILE", only)


def _put(
    tx: Connection,
    name: str,
    scope: Scope,
    token: str,
    created_by: str,
    limits: KeyLimits | None = None,
) -> bool:
    _check(name, [scope], token)
    put = insert(api_keys).values(
        name=name,
        hash=hash_of(token),
        scopes=[scope.value],
        created_by=created_by,
        **(msgspec.structs.asdict(limits) if limits is not None else {}),
    )
    changed = tx.execute(
        put.on_conflict_do_update(
            index_elements=["name"],
            set_={"hash": put.excluded.hash, "scopes": put.excluded.scopes, "revoked_at": None},
            where=api_keys.c.hash != put.excluded.hash,
        ).returning(api_keys.c.name)
    )
    return changed.first() is not None


def list_keys(tx: Connection) -> list[KeyRow]:
    """Every key ever made, revoked ones too, by name."""
    c = api_keys.c
    told = (c.name, c.scopes, c.created_at, c.created_by, c.revoked_at, c.expires_at)
    return [
        KeyRow(
            r.name,
            tuple(r.scopes),
            r.created_at,
            r.created_by,
            r.revoked_at,
            r.expires_at,
            limits_of(r),
        )
        for r in tx.execute(select(*told, *_LIMITS).order_by(c.name))
    ]


def active(tx: Connection) -> list[ActiveKey]:
    """The keys that are not revoked; also those that have expired, for they are told so."""
    c = api_keys.c
    left_s = func.extract("epoch", c.expires_at - func.clock_timestamp()).label("left_s")
    rows = tx.execute(
        select(c.hash, c.name, c.scopes, c.expires_at, left_s, *_LIMITS).where(
            c.revoked_at.is_(None)
        )
    )
    return [
        ActiveKey(
            bytes(r.hash),
            r.name,
            tuple(r.scopes),
            limits_of(r),
            r.expires_at,
            None if r.left_s is None else float(r.left_s),
        )
        for r in rows
    ]


def limits_of(row: Row[Any]) -> KeyLimits | None:
    """The limits in a row that has their columns; None: it has none."""
    given = {name: getattr(row, name) for name in KeyLimits.__struct_fields__}
    if all(value is None for value in given.values()):
        return None
    patterns = {name: tuple(v) for name, v in given.items() if isinstance(v, list)}
    return KeyLimits(**given | patterns)


def revoke(tx: Connection, name: str) -> bool:
    """End this key; False when there is none of this name that may still call."""
    c = api_keys.c
    ended = update(api_keys).where((c.name == name) & c.revoked_at.is_(None))
    return tx.execute(ended.values(revoked_at=func.now())).rowcount == 1


def _check(name: str, scopes: Sequence[str], token: str) -> None:
    if not name or len(name) > 100 or not name.isprintable():
        raise KeyRefused("a key's name has 1 to 100 printable characters")
    if unknown := unknown_scopes(scopes):
        raise KeyRefused(
            f"unknown scope {', '.join(unknown)}; there are {', '.join(sorted(ALL_SCOPES))}"
        )
    if not scopes:
        raise KeyRefused(f"a key needs a scope; there are {', '.join(sorted(ALL_SCOPES))}")
    if len(token) < TOKEN_CHARS_MIN or not token.isascii() or not token.isprintable():
        raise KeyRefused(
            f"a key has at least {TOKEN_CHARS_MIN} random ASCII characters; `openssl rand -hex 32`"
            " makes one"
        )
