"""Answers to unsafe calls, by caller and Idempotency-Key: the same call again gets the same answer.

A key is taken before the call begins and gets its answer when it ends. A process that dies between
the two leaves a key without an answer; after `ABANDONED_S` the next call with it may begin again,
which is safe because what these calls do is itself done once.
"""

import msgspec
from sqlalchemy import Connection

ABANDONED_S = 90


class StoredAnswer(msgspec.Struct, frozen=True):
    """What the key's first call was (its digest) and was answered; `status` None: it still runs."""

    digest: bytes
    status: int | None
    body: str | None  # JSON text


_BEGIN = """
insert into answers as a (author, key, digest) values (%(author)s, %(key)s, %(digest)s)
on conflict (author, key) do update set asked_at = now()
where a.status is null and a.digest = excluded.digest
    and a.asked_at < now() - %(abandoned_s)s * interval '1 second'
returning 1
"""

_FIND = "select digest, status, body::text from answers where author = %(author)s and key = %(key)s"

_FINISH = """
update answers set status = %(status)s, body = %(body)s::json
where author = %(author)s and key = %(key)s and status is null
"""

_GIVE_UP = "delete from answers where author = %(author)s and key = %(key)s and status is null"

_FORGET = "delete from answers where asked_at < now() - %(age_s)s * interval '1 second'"


def begin(tx: Connection, author: str, key: str, digest: bytes) -> StoredAnswer | None:
    """Take the key for a call with this digest: None, and the call is the caller's to make.

    Otherwise what an earlier call with the key left. `tx` must be in autocommit, so that a call
    made at the same moment elsewhere sees the key taken.
    """
    names = {"author": author, "key": key}
    call = names | {"digest": digest, "abandoned_s": ABANDONED_S}
    for _ in range(2):  # the row may be given up between the two statements
        if tx.exec_driver_sql(_BEGIN, call).first() is not None:
            return None
        found = tx.exec_driver_sql(_FIND, names).first()
        if found is not None:
            return StoredAnswer(bytes(found[0]), found[1], found[2])
    return StoredAnswer(digest, None, None)


def finish(tx: Connection, author: str, key: str, status: int, body: str) -> None:
    """Keep the answer, JSON text, for calls to come."""
    given = {"author": author, "key": key, "status": status, "body": body}
    tx.exec_driver_sql(_FINISH, given)


def give_up(tx: Connection, author: str, key: str) -> None:
    """The call came to nothing, so the key is free again."""
    tx.exec_driver_sql(_GIVE_UP, {"author": author, "key": key})


def forget(tx: Connection, age_s: float) -> int:
    """Delete answers older than `age_s`; how many."""
    return tx.exec_driver_sql(_FORGET, {"age_s": age_s}).rowcount
