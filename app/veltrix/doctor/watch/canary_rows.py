"""Canaries in the database: which are on their way, and what became of them."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection

from veltrix.domain.events import CANARY_SOURCE
from veltrix.store.arrays import TextArray

KEPT_S = 3_600.0  # then a canary is deleted, with its event and run
FORGOTTEN_MAX = 500
SHOWN_S = 900.0


class CanaryOnWay(msgspec.Struct, frozen=True):
    """A canary without an ending. `state`: of its run; None: it has none, or no event."""

    id: str
    queue: str
    api: str
    age_s: float
    event_id: str | None
    state: str | None
    took_s: float | None


class CanaryEnding(msgspec.Struct, frozen=True):
    """What became of a canary: out in time, out late, or lost."""

    id: str
    ending: str
    took_s: float | None
    event_id: str | None = None


class CanaryRow(msgspec.Struct, frozen=True):
    """The last canary of a queue and an api that ended, or the first; `ending` None: none did.

    `on_way_since`: since when one is on its way; None: none is.
    """

    queue: str
    api: str
    sent_at: datetime
    ending: str | None
    took_s: float | None
    on_way_since: datetime | None


# An event has the id of its sender; its run has an id right behind that of the event.
_ON_WAY = """
select c.id, c.queue, c.api, extract(epoch from now() - c.sent_at)::float8, i.event_id::text,
    r.state, extract(epoch from r.settled_at - c.sent_at)::float8
from canaries c
left join identities i on i.source = %(source)s and i.sender_id = c.id collate "C"
left join lateral (
    select state, settled_at from runs
    where runs.id > i.event_id
        and runs.id <= (left(i.event_id::text, 30) || 'ffffff')::uuid order by runs.id limit 1
) r on true
where c.ending is null order by c.sent_at, c.id
"""

_SEND = """
insert into canaries (id, queue, api, sent_at)
select id, queue, api, clock_timestamp() from unnest(%(id)s, %(queue)s, %(api)s)
    as t(id, queue, api)
"""

_END = """
update canaries c set ending = t.ending, ended_at = now(), took_ms = (t.took_s * 1000)::bigint,
    event_id = t.event_id
from unnest(%(id)s, %(ending)s, %(took_s)s::float8[], %(event_id)s::uuid[])
    as t(id, ending, took_s, event_id)
where c.id = t.id and c.ending is null
"""

_LATEST = """
select distinct on (queue, api) queue, api, sent_at, ending, (took_ms / 1000.0)::float8,
    min(sent_at) filter (where ending is null) over (partition by queue, api)
from canaries where sent_at > now() - %(shown_s)s * interval '1 second'
order by queue, api, ending is null, sent_at desc
"""

_LOST = """
select queue, api, ending from canaries
where ending = 'lost' and sent_at > now() - %(for_s)s * interval '1 second' order by sent_at
"""

_FORGET = "select forget_canaries(%(kept_s)s * interval '1 second', %(most)s)"
_DROP = "delete from canaries where id = any(%(id)s) and ending is null"


def on_way(tx: Connection) -> list[CanaryOnWay]:
    """Every canary without an ending, oldest first, with what the ledger has of it."""
    return [CanaryOnWay(*row) for row in tx.exec_driver_sql(_ON_WAY, {"source": CANARY_SOURCE})]


def note_sending(tx: Connection, sent: Sequence[tuple[str, str, str]]) -> None:
    """(id, queue, api) of canaries that are about to be sent for the first time."""
    if sent:
        keys = {
            "id": TextArray([one[0] for one in sent]),
            "queue": TextArray([one[1] for one in sent]),
            "api": TextArray([one[2] for one in sent]),
        }
        tx.exec_driver_sql(_SEND, keys)


def note_endings(tx: Connection, endings: Sequence[CanaryEnding]) -> None:
    """Canaries that are on their way no more."""
    if endings:
        keys = {
            "id": TextArray([one.id for one in endings]),
            "ending": TextArray([one.ending for one in endings]),
            "took_s": TextArray([_text(one.took_s) for one in endings]),
            "event_id": TextArray([one.event_id for one in endings]),
        }
        tx.exec_driver_sql(_END, keys)


def drop(tx: Connection, ids: Sequence[str]) -> None:
    """Canaries that nobody took, and nobody sends again."""
    if ids:
        tx.exec_driver_sql(_DROP, {"id": TextArray(ids)})


def latest(tx: Connection) -> list[CanaryRow]:
    """The last canary of each queue and api, of the last quarter of an hour."""
    return [CanaryRow(*row) for row in tx.exec_driver_sql(_LATEST, {"shown_s": SHOWN_S})]


def lost_lately(tx: Connection, for_s: float) -> list[tuple[str, str]]:
    """(queue, api) of canaries that were lost in the last `for_s` seconds."""
    return [(row[0], row[1]) for row in tx.exec_driver_sql(_LOST, {"for_s": for_s})]


def forget(tx: Connection, kept_s: float = KEPT_S) -> int:
    """Delete canaries that ended longer ago, with their events and runs; how many."""
    keys = {"kept_s": kept_s, "most": FORGOTTEN_MAX}
    return int(tx.exec_driver_sql(_FORGET, keys).scalar_one())


def _text(number: float | None) -> str | None:
    return None if number is None else repr(number)
