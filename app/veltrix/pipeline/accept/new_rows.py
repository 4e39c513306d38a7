"""Inserting a list as if every event in it were new, which it is but for what is sent again.

Nothing is compared and nothing joined: four plain inserts in one statement and one commit. An
identity that is in the ledger refuses the whole, and then `ledger_rows.insert` finds out which.
"""

from collections import Counter
from collections.abc import Sequence

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.accept.ledger_rows import RUNS, EventInsert
from veltrix.store.arrays import BoolArray, IntArray
from veltrix.store.transactions import fetch

DOUBTED_LISTS = 20  # after one that was not all new: who sends again sends more of it again
_IDENTITIES_KEY = "identities_pkey"

_INSERT_NEW = f"""
with known as (
    insert into identities (source, sender_id, digest, event_id)
    select source, sender_id, digest, event_id
    from unnest(%(source)s, %(sender_id)s, %(digest)s, %(event_id)s::uuid[])
        as i(source, sender_id, digest, event_id)
), stored as (
    insert into events (id, account_id, minute, unrouted, accepted_at, source, sender_id, type,
        subject, time, datacontenttype, dataschema, data, data_binary, extensions, traceparent,
        digest)
    select event_id, account_id, %(minute)s, unrouted, to_timestamp(%(unix_ms)s / 1000.0), source,
        sender_id, type, subject, time, datacontenttype, dataschema, data, data_binary, extensions,
        traceparent, digest
    from unnest(
        %(event_id)s::uuid[], %(account_id)s::int[], %(unrouted)s, %(source)s, %(sender_id)s,
        %(type)s, %(subject)s, %(time)s, %(datacontenttype)s, %(dataschema)s, %(data)s::json[],
        %(data_binary)s, %(extensions)s::json[], %(traceparent)s, %(digest)s
    ) as e(event_id, account_id, unrouted, source, sender_id, type, subject, time, datacontenttype,
        dataschema, data, data_binary, extensions, traceparent, digest)
), started as ({RUNS}
)
insert into counter_deltas (account_id, minute, accepted, routed, unrouted, started)
select account_id, %(minute)s, accepted, accepted - unrouted, unrouted, started
from unnest(%(c_account)s::int[], %(c_accepted)s, %(c_unrouted)s, %(c_started)s)
    as c(account_id, accepted, unrouted, started)
returning 1
"""  # noqa: S608 - put together from constants


class Inserting:
    """How one writer inserts its lists. Not for two threads."""

    def __init__(self) -> None:
        self._doubted = 0

    def insert(
        self,
        tx: Connection,
        items: Sequence[EventInsert],
        unix_ms: int,
        hold_s: float,
        token: str | None,
        *,
        may_be_there: bool = False,
    ) -> set[str]:
        """As `ledger_rows.insert`. `tx` is in autocommit.

        `may_be_there`: a write of these very items may have been committed.
        """
        if self._doubted:
            self._doubted -= 1
        elif not may_be_there:
            try:
                _insert_new(tx, items, unix_ms, hold_s, token)
            except DBAPIError as error:
                if not _is_known(error):
                    raise
                self._doubted = DOUBTED_LISTS
            else:
                return {item.event_id for item in items}
        return ledger_rows.insert(tx, items, unix_ms, hold_s, token)


def _insert_new(
    tx: Connection,
    items: Sequence[EventInsert],
    unix_ms: int,
    hold_s: float,
    token: str | None,
) -> None:
    accepted: Counter[int] = Counter()
    unrouted: Counter[int] = Counter()
    started: Counter[int] = Counter()
    for item in items:
        runs = len(item.runs)
        accepted[item.account_id] += 1
        unrouted[item.account_id] += runs == 0
        started[item.account_id] += runs
    counts = {
        "unrouted": BoolArray([not item.runs for item in items]),
        "c_account": IntArray(list(accepted)),
        "c_accepted": IntArray(list(accepted.values())),
        "c_unrouted": IntArray([unrouted[account] for account in accepted]),
        "c_started": IntArray([started[account] for account in accepted]),
    }
    fetch(tx, _INSERT_NEW, ledger_rows.values_of(items, unix_ms, hold_s, token) | counts)


def _is_known(error: DBAPIError) -> bool:
    """An identity is in the ledger already, or will be."""
    return (
        isinstance(error.orig, psycopg.errors.UniqueViolation)
        and error.orig.diag.constraint_name == _IDENTITIES_KEY
    )
