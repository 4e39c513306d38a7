"""What is there after the workload: ledger, runs, journal, effects, moves, books.

Read with statements of its own, beside the code under test, as of one moment of the database.
"""

import time
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import LiteralString, NamedTuple

import msgspec
import psycopg

from veltrix.prove.check.archived import see_archived
from veltrix.prove.deployment.witness import Move, read_moves
from veltrix.prove.load.items import content_digest
from veltrix.prove.load.notes import SEEN_FILE, Seen
from veltrix.store.journal_of import JOURNAL_OF

_EVENTS = """
copy (
    select id::text, sender_id, type, datacontenttype, data::text, data_binary, unrouted,
        extract(epoch from accepted_at)::float8, account_id, minute
    from events where source = %(source)s
) to stdout
"""
_RUNS = """
copy (
    select r.id::text, r.event_id::text, r.workflow, r.state, r.generation, coalesce(r.reason, ''),
        r.due_at is not null, extract(epoch from r.settled_at)::float8, r.account_id, r.minute,
        coalesce(r.key, ''), r.archived_at is not null
    from runs r where r.account_id in (select id from accounts where source = %(source)s)
) to stdout
"""
_ENTRIES = f"""
copy (
    select run_id::text, generation, position, kind, name, error is null from {JOURNAL_OF} j
    where run_id in (
        select id from runs
        where account_id in (select id from accounts where source = %(source)s)
        union all select run_id from edits
    )
) to stdout
"""  # noqa: S608 - put together from constants
_BOOKS = """
select coalesce(sum(accepted), 0), coalesce(sum(routed), 0), coalesce(sum(unrouted), 0),
    coalesce(sum(started), 0), coalesce(sum(succeeded), 0), coalesce(sum(failed), 0),
    coalesce(sum(cancelled), 0)
from (
    select account_id, accepted, routed, unrouted, started, succeeded, failed, cancelled
    from counters
    union all
    select account_id, accepted, routed, unrouted, started, succeeded, failed, cancelled
    from counter_deltas
) all_of_them where account_id in (select id from accounts where source = %(source)s)
"""
_BOOKS_BY_MINUTE = """
select account_id, minute, sum(accepted), sum(routed), sum(unrouted), sum(started),
    sum(succeeded), sum(failed), sum(cancelled)
from (
    select account_id, minute, accepted, routed, unrouted, started, succeeded, failed, cancelled
    from counters
    union all
    select account_id, minute, accepted, routed, unrouted, started, succeeded, failed, cancelled
    from counter_deltas
) all_of_them where account_id in (select id from accounts where source = %(source)s)
group by 1, 2
"""
_FAILED_ATTEMPTS = """
copy (
    select run_id::text, generation, position, attempt, type, coalesce(worker_id, '')
    from failed_attempts
    where run_id in (
        select id from runs
        where account_id in (select id from accounts where source = %(source)s)
        union all select run_id from edits
    )
) to stdout
"""
_GROUPS = """
select kind, sum(count), sum(archived) from (
    select kind, count, archived from failure_groups
    union all select kind, count, archived from failure_deltas
) both_of_them group by kind
"""
# Runs that edits made of others, for events of a source of ours.
_EDITED = """
select d.run_id::text, d.origin_run_id::text, r.state
from edits d left join runs r on r.id = d.run_id
"""
_STRANGERS = """
select count(*) from events where source <> %(source)s
    and id not in (select r.event_id from edits d join runs r on r.id = d.run_id)
"""


class StoredEvent(NamedTuple):
    """A row of the ledger."""

    event_id: str
    sender_id: str
    type: str
    digest: str
    is_unrouted: bool
    accepted_at: float
    account: int = 0
    minute: int = 0


class StoredRun(NamedTuple):
    """A run."""

    run_id: str
    event_id: str
    workflow: str
    state: str
    generation: int
    reason: str
    is_open: bool
    settled_at: float | None
    account: int = 0
    minute: int = 0
    key: str = ""
    is_archived: bool = False


class JournalRow(NamedTuple):
    """A line of the journal."""

    run_id: str
    generation: int
    position: str
    kind: str
    name: str
    is_ok: bool


class Begin(NamedTuple):
    """A step began, by its own note."""

    run_id: str
    position: str
    key: str
    attempt: int
    pid: int
    at: float


class Failed(NamedTuple):
    """An attempt of a step failed, by the ledger; position "": of the workflow's own code."""

    run_id: str
    generation: int
    position: str
    attempt: int
    type: str
    worker_id: str = ""


class Books(NamedTuple):
    """What the counters say of our events."""

    accepted: int = 0
    routed: int = 0
    unrouted: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class CheckedEvidence(msgspec.Struct):
    """Everything the checker looks at, besides the record."""

    events: list[StoredEvent]
    runs: list[StoredRun]
    entries: list[JournalRow]
    begins: list[Begin]
    moves: list[Move]
    booked: Counter[str]
    letters: Counter[str]
    books: Books
    strangers: int = 0  # events of other sources, in a database that is the proof's alone
    failed: list[Failed] = []
    seen: list[Seen] = []  # what workflows say they were given
    edited: dict[str, tuple[str, str]] = {}  # runs made by edits: of which, and their state
    groups: dict[str, tuple[int, int]] = {}  # by kind: what they count, and what is archived
    books_by_minute: dict[tuple[int, int], Books] = {}  # by account and minute


class Clock:
    """From nanoseconds of the machine's monotonic clock to seconds since 1970.

    What NTP moves while it runs is spread evenly over the time between `Clock()` and `stop`.
    """

    def __init__(self) -> None:
        self._first = self._last = self._look()

    def stop(self) -> None:
        """The end of the time that will be asked about."""
        self._last = self._look()

    def seconds(self, monotonic_ns: int) -> float:
        """The time of day of that moment."""
        (then, wall), (now, now_wall) = self._first, self._last
        scale = (now_wall - wall) / (now - then) if now > then else 1e-9
        return wall + (monotonic_ns - then) * scale

    @staticmethod
    def _look() -> tuple[int, float]:
        return time.monotonic_ns(), time.time()


def read_evidence(
    connection: psycopg.Connection,
    source: str,
    effects: Path | None,
    clock: Clock,
    archive: Path | None = None,
) -> CheckedEvidence:
    """The evidence of one source, in a database of its own. `effects`: the file of the notes.

    What was dropped and is in the `archive` counts as if it were there.
    """
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        if archive is not None:
            see_archived(connection, archive)
        books = connection.execute(_BOOKS, {"source": source}).fetchone()
        return CheckedEvidence(
            events=list(_events(connection, source)),
            runs=list(_runs(connection, source)),
            entries=list(_entries(connection, source)),
            begins=list(read_begins(effects, clock)) if effects else [],
            moves=list(read_moves(connection)),
            booked=Counter(key for (key,) in connection.execute("select key from prove_effects")),
            letters=Counter(
                sha256(body).hexdigest()
                for (body,) in connection.execute("select body from dead_letters")
            ),
            books=Books(*map(int, books or ())),
            strangers=_count(connection, _STRANGERS, source),
            failed=list(_failed(connection, source)),
            seen=list(read_seen(effects.with_name(SEEN_FILE))) if effects else [],
            edited={
                run_id: (origin, state or "")
                for run_id, origin, state in connection.execute(_EDITED)
            },
            groups={
                kind: (int(count), int(archived))
                for kind, count, archived in connection.execute(_GROUPS)
            },
            books_by_minute={
                (account, minute): Books(*map(int, counts))
                for account, minute, *counts in connection.execute(
                    _BOOKS_BY_MINUTE, {"source": source}
                )
            },
        )


def _count(connection: psycopg.Connection, sql: LiteralString, source: str) -> int:
    row = connection.execute(sql, {"source": source}).fetchone()
    assert row is not None
    return int(row[0])


def _events(connection: psycopg.Connection, source: str) -> Iterator[StoredEvent]:
    types = ["text"] * 5 + ["bytea", "bool", "float8", "int4", "int4"]
    with connection.cursor() as cursor, cursor.copy(_EVENTS, {"source": source}) as copy:
        copy.set_types(types)
        for id_, sender_id, type_, content_type, data, binary, *rest in copy.rows():
            content = binary if binary is not None else (data or "").encode()
            digest = content_digest(type_, content_type, content)
            yield StoredEvent(id_, sender_id, type_, digest, *rest)


def _runs(connection: psycopg.Connection, source: str) -> Iterator[StoredRun]:
    types = ["text"] * 4 + ["int4", "text", "bool", "float8", "int4", "int4", "text", "bool"]
    with connection.cursor() as cursor, cursor.copy(_RUNS, {"source": source}) as copy:
        copy.set_types(types)
        for row in copy.rows():
            yield StoredRun(*row)


def _entries(connection: psycopg.Connection, source: str) -> Iterator[JournalRow]:
    types = ["text", "int4", "text", "text", "text", "bool"]
    with connection.cursor() as cursor, cursor.copy(_ENTRIES, {"source": source}) as copy:
        copy.set_types(types)
        for row in copy.rows():
            yield JournalRow(*row)


def _failed(connection: psycopg.Connection, source: str) -> Iterator[Failed]:
    keys = {"source": source}
    with connection.cursor() as cursor, cursor.copy(_FAILED_ATTEMPTS, keys) as copy:
        copy.set_types(["text", "int4", "text", "int4", "text", "text"])
        for row in copy.rows():
            yield Failed(*row)


def read_seen(path: Path) -> Iterator[Seen]:
    """What workflows say they were given, in the order they said it."""
    if not path.exists():
        return
    decode = msgspec.json.Decoder(Seen).decode
    with path.open("rb") as file:
        for line in file:
            yield decode(line)


def read_begins(path: Path, clock: Clock) -> Iterator[Begin]:
    """The notes of the steps, in the order they were written."""
    if not path.exists():
        return
    with path.open(encoding="ascii") as file:
        for line in file:
            run_id, position, key, attempt, pid, at = line.split()
            yield Begin(run_id, position, key, int(attempt), int(pid), clock.seconds(int(at)))
