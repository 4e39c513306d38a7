"""Sessions of the console: rows that hold a hash, never what the browser has.

A session is as good as its key is now: the key's row is looked at each time, so a revoke, or new
content of the admin key file, ends the session at once, and scopes and limits are those of the
moment. It ends with its key at the latest.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.access.key_limits import KeyLimits
from veltrix.access.keys import hash_of, limits_of

SESSIONS_MAX = 100  # of one key


class Session(msgspec.Struct, frozen=True):
    """Who is signed in. `csrf` is the token that every form of this session carries."""

    key_name: str
    scopes: tuple[str, ...]
    csrf: str
    made_at: datetime
    expires_at: datetime
    limits: KeyLimits | None = None


_MAKE = """
insert into sessions (hash, key_name, key_hash, csrf, expires_at)
select %(hash)s, name, hash, %(csrf)s,
    least(expires_at, now() + %(age_s)s * interval '1 second')
from api_keys where hash = %(key_hash)s and revoked_at is null
    and (expires_at is null or expires_at > now())
"""

# Who signs in again and again has no more of them than this: the oldest end.
_BOUND = """
delete from sessions where hash in (
    select hash from sessions where key_name = %(key_name)s
    order by made_at desc, hash offset %(sessions_max)s
)
"""

_FIND = f"""
select s.key_name, k.scopes, s.csrf, s.made_at, s.expires_at,
    {", ".join(f"k.{name}" for name in KeyLimits.__struct_fields__)}
from sessions s
join api_keys k on k.name = s.key_name and k.hash = s.key_hash and k.revoked_at is null
where s.hash = %(hash)s and s.expires_at > now()
"""  # noqa: S608 - put together from constants

_END = "delete from sessions where hash = %(hash)s"

_FORGET = "delete from sessions where expires_at < now()"


def make(tx: Connection, key: str, token: str, csrf: str, age_s: float) -> Session | None:
    """A session that `token` opens for `age_s`; None: no key that may call is `key`.

    Of more than SESSIONS_MAX of a key the oldest end.
    """
    row = {"hash": hash_of(token), "key_hash": hash_of(key), "csrf": csrf, "age_s": age_s}
    tx.exec_driver_sql(_MAKE, row)
    made = find(tx, token)
    if made is not None:
        bound = {"key_name": made.key_name, "sessions_max": SESSIONS_MAX}
        tx.exec_driver_sql(_BOUND, bound)
    return made


def find(tx: Connection, token: str) -> Session | None:
    """The session that `token` opens; None: there is none, it is over, or its key is revoked."""
    row = tx.exec_driver_sql(_FIND, {"hash": hash_of(token)}).one_or_none()
    if row is None:
        return None
    return Session(
        row.key_name, tuple(row.scopes), row.csrf, row.made_at, row.expires_at, limits_of(row)
    )


def end(tx: Connection, token: str) -> None:
    """`token` opens nothing any more."""
    tx.exec_driver_sql(_END, {"hash": hash_of(token)})


def forget(tx: Connection) -> int:
    """Delete the sessions whose time is over; how many."""
    return tx.exec_driver_sql(_FORGET).rowcount
