"""Workers, queues and books, as the database has them."""

import math
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.doctor.examine import Unread
from veltrix.doctor.facts.postgres import away
from veltrix.doctor.facts.session import LookingSession
from veltrix.operations.books import read, read_workers
from veltrix.operations.books.read_workers import WorkerRow
from veltrix.pipeline.relay.due_rows import queues_subscribed
from veltrix.pipeline.relay.queue_rows import Unserved, unserved
from veltrix.settings.fields import Settings
from veltrix.store.crashes import VANISHED
from veltrix.store.errors import sqlstate_of
from veltrix.store.loads import PRESENT_S

WORKERS_MAX = 1_000
BOOKS_SHARE_MAX = 1 / 500  # of the time may be spent on counting the books
# Runs that are due for longer: a relay would have handed them over, or a worker taken them.
_LATE = """
select queue, count(*), extract(epoch from now() - min(due_at))::float8 from (
    select queue, due_at from runs
    where due_at < now() - %(late_s)s * interval '1 second' order by queue, due_at limit 1000
) as late group by queue order by queue
"""
# The newest attempts alone: the table is only added to, by id. Each rescue is such a row.
_CRASHES = f"""
select count(*) filter (where is_crash), count(*),
    count(*) filter (where is_vanished),
    count(distinct date_trunc('minute', failed_at)) filter (where is_vanished)
from (
    select is_crash, is_crash and type = '{VANISHED}' as is_vanished, failed_at
    from failed_attempts
    where failed_at > now() - interval '1 hour'
        and id > (select max(id) from failed_attempts) - 5000
    order by id desc
) as recent
"""  # noqa: S608 - put together from constants
# At least so many: sources and types beyond 5,000 minutes of theirs are not added up.
_STARTED = """
select coalesce(sum(started), 0)::bigint from (
    select started from counters
    where minute >= floor(extract(epoch from now()) / 60)::int - 60
    order by minute desc limit 5000
) as recent
"""
# Children of one environment say the same, byte for byte: few texts, however many children.
_SETTINGS = """
select load ->> 'settings', array_agg(distinct node order by node) from workers
where seen_at > now() - %(present_s)s * interval '1 second'
    and load ->> 'left' is null and load ->> 'settings' is not null
group by 1
"""
_UNFOLDED = """
select count(*), coalesce(extract(epoch from now())::float8 - min(minute) * 60.0, 0)::float8
from (select minute from counter_deltas order by id limit 1000) as oldest
"""
_DEAD = "select count(*) from (select from dead_letters where seen_at is null limit 1000) as unseen"


class LateQueue(msgspec.Struct, frozen=True):
    """A queue with runs that should have begun; up to 1,000 are counted."""

    queue: str
    runs: int
    oldest_s: float


class LiveWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """Who works, what waits, and whether the books balance.

    `crashes` of `attempts` that failed in the last hour; `rescued` of them are runs taken back from
    workers that were not heard of, in `rescued_minutes` different minutes, while `started` runs or
    more began. `settings`: (what all workers must have alike, which of them have it so), where they
    say it. `unfolded_s`: age of the oldest count
    that no relay has booked. `unseen`: dead letters that nobody has looked at, up to 1,000.
    """

    workers: list[WorkerRow]
    unserved: list[Unserved]
    late: list[LateQueue]
    crashes: int
    attempts: int
    rescued: int
    rescued_minutes: int
    started: int
    settings: list[tuple[dict[str, Any], list[str]]]
    unfolded: int
    unfolded_s: float
    unseen: int
    unaccounted: int
    as_of: datetime


class BooksLook:
    """What the books cannot account for, counted again when its cost allows it. For one thread.

    Every open run is counted from its row: a look in ten seconds, with a million of them open,
    would take a good part of a processor.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._again_at, self._unaccounted = -math.inf, 0

    def unaccounted(self, tx: Connection) -> int:
        """As of now, or of the last time, which is 500 times as long ago as counting takes."""
        began = self._monotonic()
        if began >= self._again_at:
            self._unaccounted = read.totals(tx).unaccounted
            ended = self._monotonic()
            self._again_at = ended + (ended - began) / BOOKS_SHARE_MAX
        return self._unaccounted


def read_live_workers(settings: Settings) -> LiveWorkers:
    """`look_at_workers` in a session for this one look. Raises Unread."""
    with closing(LookingSession(settings)) as session:
        return look_at_workers(session, settings, BooksLook())


def look_at_workers(session: LookingSession, settings: Settings, books: BooksLook) -> LiveWorkers:
    """All of it in one snapshot. Raises Unread."""
    if not session.is_configured:
        raise Unread("VELTRIX_DATABASE_URL is not set, so nobody knows the workers; set it")
    try:
        return session.look_at_once(lambda tx: _read(tx, books, settings.hold_s_max))
    except (DBAPIError, psycopg.Error) as error:
        if sqlstate_of(error) in {"42P01", "42703"}:
            raise Unread(
                "the database does not have this version's tables; run `veltrix db upgrade`"
            ) from None
        raise away(error) from None


def subscribed_queues(settings: Settings, session: LookingSession | None = None) -> list[str]:
    """The workflow queues: of the subscriptions, or of the workflows where there are none.

    Where the database cannot be asked, those of the workflows; none that cannot be imported.
    """
    if session is None:
        with closing(LookingSession(settings)) as once:
            return subscribed_queues(settings, once)
    names: list[str] = []
    if session.is_configured:
        with suppress(DBAPIError, psycopg.Error):  # told by the rules of the database
            names = sorted(session.look(queues_subscribed))
    return names or _queues_of_workflows(settings)


def _queues_of_workflows(settings: Settings) -> list[str]:
    from veltrix.bootstrap import workflows_of

    try:
        found = workflows_of(settings)
    except Exception as error:  # noqa: BLE001 - of whatever their modules do
        raise Unread(
            f"which queues there should be is not known: {settings.workflows!r} cannot be imported"
            f" ({type(error).__name__}); set VELTRIX_WORKFLOWS, or VELTRIX_DATABASE_URL"
        ) from None
    return sorted({workflow.queue for workflow, _ in found.values()})


def _read(tx: Connection, books: BooksLook, late_s: float) -> LiveWorkers:
    crashes, attempts, rescued, rescued_minutes = tx.exec_driver_sql(_CRASHES).one()
    unfolded, unfolded_s = tx.exec_driver_sql(_UNFOLDED).one()
    return LiveWorkers(
        workers=read_workers.page(tx, after=None, limit=WORKERS_MAX).items,
        unserved=unserved(tx),
        late=[LateQueue(*row) for row in tx.exec_driver_sql(_LATE, {"late_s": late_s})],
        crashes=crashes,
        attempts=attempts,
        rescued=rescued,
        rescued_minutes=rescued_minutes,
        started=tx.exec_driver_sql(_STARTED).scalar_one() if rescued else 0,
        settings=[
            (msgspec.json.decode(text), nodes)
            for text, nodes in tx.exec_driver_sql(_SETTINGS, {"present_s": PRESENT_S})
        ],
        unfolded=unfolded,
        unfolded_s=unfolded_s,
        unseen=tx.exec_driver_sql(_DEAD).scalar_one(),
        unaccounted=books.unaccounted(tx),
        as_of=tx.exec_driver_sql("select now()").scalar_one(),
    )
