"""Tables of the ledger laid out in several ways, each in a schema of its own, with settled history.

`history` is where settled runs are inserted, `reads` what a reader of all runs names.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, text

from veltrix.domain.ids import first_id_at, workflow_suffix
from veltrix.pipeline.execute.journal_statement import SETTLED
from veltrix.store.tables import metadata, runs

PARTITIONS = 60
AHEAD_DAYS = 7
SLEEPERS = 1_000  # one of so many runs sleeps for long: partitions of any age have open runs
BY_ID = {"events": "id", "journal": "run_id", "failed_attempts": "run_id"}
CHUNK = 50_000
_DAY_MS = 86_400_000


class Layout(NamedTuple):
    """Which tables are partitions of so many days, and where settled runs are."""

    name: str
    days: int = 0
    split: tuple[str, ...] = ()
    history: str = "runs"
    reads: str = "runs"


class Way(NamedTuple):
    """A layout with the statements of one way to use it: `of` makes one of today's."""

    name: str
    layout: Layout
    of: Callable[[str, str], str]
    has_moves: bool = False


def _as_they_are(_what: str, statement: str) -> str:
    return statement


def _bounded(what: str, statement: str) -> str:
    """With the list's first and last id: partitions are left out when an execution begins."""
    if what == "claim":
        statement = _replaced(
            statement, "where r.id = k.id", f"where r.id = k.id and {_within('r')}"
        )
        return _events_bounded(what, statement)
    if what == "settle":
        return _replaced(statement, "where r.id = u.id", f"where r.id = u.id and {_within('r')}")
    return statement


def _events_bounded(what: str, statement: str) -> str:
    if what == "claim":
        on = "on e.id = c.event_id"
        return _replaced(statement, on, f"{on} and {_within('e')}")
    return statement


def _within(alias: str) -> str:
    return f"{alias}.id >= %(low)s::uuid and {alias}.id <= %(high)s::uuid"


def _moved(what: str, statement: str) -> str:
    if what in READS:
        return re.sub(r"\b(from|join) runs\b", r"\1 runs_all", statement)
    return _events_bounded(what, statement)


def _named(what: str, statement: str) -> str:
    """The path names the table of open runs and the day of its events; who settles deletes."""
    if what in READS:
        return statement
    if what == "settle":
        statement = _settled_elsewhere(statement)
    statement = re.sub(r"\b(from|join|update) runs r\b", r"\1 runs_open r", statement)
    statement = re.sub(r"\bfrom runs\b(?! r\b)", "from runs_open runs", statement)
    if what == "accept":
        statement = _replaced(statement, "insert into runs (", "insert into runs_open (")
    return _of_today(what, statement)


def _told(what: str, statement: str) -> str:
    """A condition leaves out all but open runs when it is planned; settling sets its column."""
    told = {
        "claim": ("where r.id = k.id", "r"),
        "settle": ("where r.id = u.id", "r"),
        "looks": ("where runs.queue = k.queue", "runs"),
        "scan": ("where runs.queue = k.queue", "runs"),
    }
    if what in told:
        where, alias = told[what]
        statement = _replaced(statement, where, f"{where} and {alias}.life = 0")
    if what in {"claim", "settle"}:
        # Of a table that is nearly empty when it is planned, all would be read for a join.
        where = told[what][0]
        statement = _replaced(statement, where, f"{where} and r.id = any(%(id)s::uuid[])")
    if what == "scan":
        statement = _replaced(statement, "where r.id = d.id", "where r.id = d.id and r.life = 0")
        running = "where state = 'running'"
        statement = _replaced(statement, running, f"{running} and life = 0")
    if what == "settle":
        statement = _replaced(statement, "steps = s_j,", f"steps = s_j, life = {ENDED},")
    return _of_today(what, statement)


def _of_today(what: str, statement: str) -> str:
    """A list of one day names the partition of its events: no other is locked or planned for."""
    if what == "claim":
        today = f"left join events_{datetime.now(UTC):%Y%m%d} e"
        return _replaced(statement, "left join events e", today)
    return statement


# Which partition a run is in: 0 open, or not moved yet; 1 failed; 2 succeeded or cancelled.
ENDED = "case s_to when 'failed' then 1 else 2 end"
READS = ("known", "runs of known", "story", "steps of story", "recount")
PLAIN = Layout("plain")
DAYS = Layout("days", 1, ("events", "journal", "failed_attempts", "runs"))
WEEKS = DAYS._replace(name="weeks", days=7)
MOVED = Layout("moved", 1, tuple(BY_ID), "runs_history", "runs_all")
LIVES = Layout("lives", 1, tuple(BY_ID))
LAYOUTS = (PLAIN, DAYS, WEEKS, MOVED, LIVES)
WAYS = (
    Way("today", PLAIN, _as_they_are),
    Way("days", DAYS, _as_they_are),
    Way("days, bounds", DAYS, _bounded),
    Way("weeks", WEEKS, _as_they_are),
    Way("weeks, bounds", WEEKS, _bounded),
    Way("moved", MOVED, _moved, has_moves=True),
    Way("lives, named", LIVES, _named),
    Way("lives, told", LIVES, _told),
    Way("lives, old code", LIVES, _as_they_are),
)


def _replaced(statement: str, old: str, new: str) -> str:
    assert old in statement, f"the statement has changed: {old}"
    return statement.replace(old, new)


# What today's update sets, of the deleted row `r` and the input `u`; the others stay.
_SET = {
    "life": "case u.s_to when 'failed' then 1 else 2 end",
    "due_at": "null::timestamptz",
    "lease_token": "null::uuid",
    "state": "u.s_to",
    "settled_at": "now()",
    "reason": "null::text",
    "fingerprint": "null::text",
    "failed_step": "null::text",
    "worker_id": "%(worker_id)s",
    "delivery_id": "coalesce(u.s_by, r.delivery_id)",
    "attempt": "greatest(r.attempt, 1)",
    "hand_overs": "0",
    "claimed_at": "coalesce(r.claimed_at,"
    " least(now(), clock_timestamp() - u.s_ago * interval '1 ms'))",
    "outcome": "u.s_out",
    "steps": "u.s_j",
    "code_version": "coalesce(u.s_code, r.code_version)",
}


def _settled_elsewhere(statement: str) -> str:
    """Settle by deletion and insertion: one new tuple and its index entry, as the update makes."""
    columns = [*(column.name for column in runs.columns), "life"]
    told = ", ".join(f"u.{column.name}" for column in SETTLED)
    values = ", ".join(_SET.get(name, f"r.{name}") for name in columns)
    begins, rest = statement.split("moved as ( update runs r set", 1)
    _, rest = rest.split("r.minute )", 1)
    return (
        f"{begins}gone as ( delete from runs r using (select * from input order by id) u"
        f" where r.id = u.id and r.lease_token = any(%(tokens)s) returning r.*, {told}"
        f" ), moved as ( insert into runs ({', '.join(columns)})"
        f" select {values.replace('u.s_', 'r.s_')} from gone r"
        " returning id, generation as g, cancel_requested_at as stop, state, account_id, minute )"
        f"{rest}"
    )


MOVE = """
with m as (delete from runs where id = any(%(id)s::uuid[]) and due_at is null returning *),
moved as (insert into runs_history select * from m returning 1)
select count(*) from moved
"""


# Tables


def make(tx: Connection, layout: Layout, now: datetime) -> None:
    """A schema with the tables of the migrated one in `public`, laid out anew."""
    tx.execute(text(f"create schema {layout.name}"))
    tx.execute(text(f"set search_path = {layout.name}"))
    for table in metadata.tables:
        if table not in layout.split and not (table == "runs" and layout is LIVES):
            tx.execute(text(f"create table {table} (like public.{table} including all)"))
    for table in layout.split:
        key = BY_ID.get(table, "id")
        tx.execute(
            text(
                f"create table {table} (like public.{table} including all excluding indexes)"
                f" partition by range ({key})"
            )
        )
        _index(tx, table)
        _partitions(tx, table, layout.days, now)
    if layout is MOVED:
        _history(tx, "runs_history", "public.runs", now)
        tx.execute(
            text("create view runs_all as select * from runs union all select * from runs_history")
        )
    if layout is LIVES:
        _by_life(tx, now)


def _index(tx: Connection, table: str) -> None:
    """The indexes of the migrated table; a key that has not what it is partitioned by, gets it."""
    if table == "failed_attempts":
        tx.execute(text("alter table failed_attempts add primary key (run_id, id)"))
        return
    definitions = tx.execute(
        text("select indexdef from pg_indexes where schemaname = 'public' and tablename = :table"),
        {"table": table},
    ).scalars()
    for definition in list(definitions):
        here = re.sub(r"INDEX \S+ ON public\.", "INDEX ON ", definition)
        tx.exec_driver_sql(here)


def _history(tx: Connection, table: str, like: str, now: datetime) -> None:
    tx.execute(
        text(
            f"create table {table} (like {like} including all excluding indexes)"
            " partition by range (id)"
        )
    )
    tx.execute(text(f"alter table {table} add primary key (id)"))
    tx.execute(text(f"create index on {table} (id) where state = 'cancelled'"))
    _partitions(tx, table, 1, now)


def _by_life(tx: Connection, now: datetime) -> None:
    """One name, three lives: open runs, failed ones, and what may be dropped with its day."""
    tx.execute(text("create table run (like public.runs including all excluding indexes)"))
    tx.execute(text("alter table run add life smallint not null default 0"))
    like = "(like run including all)"
    tx.execute(text(f"create table runs {like} partition by list (life)"))
    for part in ("runs_open", "runs_failed"):
        tx.execute(text(f"create table {part} {like}"))
        tx.execute(text(f"alter table {part} add primary key (id)"))
    for index in (
        "runs_open (queue, due_at) where due_at is not null",
        "runs_open (due_at) where state = 'running'",
        "runs_failed (workflow, id)",
        "runs_failed (fingerprint, id)",
    ):
        tx.execute(text(f"create index on {index}"))
    _history(tx, "runs_done", "run", now)
    for life, part in enumerate(("runs_open", "runs_failed", "runs_done")):
        if part != "runs_open":  # what asks for runs that are due need not look there
            tx.execute(text(f"alter table {part} add constraint over check (due_at is null)"))
        tx.execute(text(f"alter table runs attach partition {part} for values in ({life})"))


def _partitions(tx: Connection, table: str, days: int, now: datetime) -> None:
    at = first_day(now)
    for _ in range(PARTITIONS // days):
        add_partition(tx, table, at, days)
        at += timedelta(days=days)
    tx.execute(text(f"create table {table}_else partition of {table} default"))


def add_partition(tx: Connection, table: str, at: datetime, days: int) -> None:
    """The partition of a table from this day on."""
    low, high = first_id_at(at), first_id_at(at + timedelta(days=days))
    tx.execute(
        text(
            f"create table {table}_{at:%Y%m%d} partition of {table}"
            f" for values from ('{low}') to ('{high}')"
        )
    )


def first_day(now: datetime) -> datetime:
    """Where history begins: the last partitions are made ahead."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=PARTITIONS - AHEAD_DAYS - 1)


# History

_SEED = """
with n as materialized (
    select n, :first_ms + n * :each_ms as ms, n % :sleepers = 0 as sleeps,
        (lpad(to_hex(:first_ms + n * :each_ms), 12, '0') || '70008' || lpad(to_hex(n), 9, '0')
            || '000000')::uuid as event_id,
        (lpad(to_hex(:first_ms + n * :each_ms), 12, '0') || '70008' || lpad(to_hex(n), 9, '0')
            || :suffix)::uuid as run_id,
        to_timestamp((:first_ms + n * :each_ms) / 1000.0) as at,
        md5(n::text) as sender_id, sha256(n::text::bytea) as digest
    from generate_series(cast(:low as bigint), cast(:high as bigint) - 1) as n
), i as (
    insert into identities (source, sender_id, digest, event_id)
    select '/history', sender_id, digest, event_id from n order by sender_id
), e as (
    insert into events (id, account_id, minute, unrouted, accepted_at, source, sender_id, type,
        subject, time, data, digest)
    select event_id, 1, ms / 60000, false, at, '/history', sender_id, 'bench.event',
        'bench-' || n % 1000, '2026-01-01T00:00:00Z',
        json_build_object('n', n, 'text', 'some words of an ordinary length'), digest
    from n order by event_id
), s as (
    insert into runs (id, event_id, account_id, minute, payload_bytes, started_at, due_at, state,
        workflow, queue)
    select run_id, event_id, 1, ms / 60000, 60, at, now() + interval '90 days', 'waiting',
        'bench_flow', 'bench'
    from n where sleeps order by run_id
)
insert into HISTORY (LIFE id, event_id, account_id, minute, payload_bytes, attempt, started_at,
    claimed_at, settled_at, delivery_id, state, workflow, queue, code_version, worker_id,
    outcome, steps)
select ENDED run_id, event_id, 1, ms / 60000, 60, 1, at, at, at, event_id, 'succeeded',
    'bench_flow', 'bench', '1', 'worker-1@localhost/1', to_json(n * 2),
    json_build_array(json_build_array('1', 'step', 'double', encode(digest, 'hex'), n * 2, 1,
        0, 0, json_build_array(json_build_array(n), '{}'::json)::text))::text
from n where not sleeps order by run_id
"""


def seed(tx: Connection, layout: Layout, events: int, now: datetime) -> None:
    """Settled events, evenly over the days of the past partitions. In autocommit."""
    first_ms = int(first_day(now).timestamp() * 1000)
    each_ms = (PARTITIONS - AHEAD_DAYS - 1) * _DAY_MS // events
    tx.execute(text(f"set search_path = {layout.name}"))
    tx.execute(text("set synchronous_commit = off"))
    statement = _SEED.replace("HISTORY", layout.history)
    for word, column in (("LIFE ", "life, "), ("ENDED ", "2, ")):
        statement = statement.replace(word, column if layout is LIVES else "")
    for low in range(0, events, CHUNK):
        tx.execute(
            text(statement),
            {
                "first_ms": first_ms,
                "each_ms": each_ms,
                "sleepers": SLEEPERS,
                "low": low,
                "high": min(low + CHUNK, events),
                "suffix": workflow_suffix("bench_flow"),
            },
        )
    for table in ("identities", "events", "runs", layout.history):
        # Not vacuumed: that would have new rows in what room the pages of old ones have left.
        tx.execute(text(f"analyze {table}"))
        tx.execute(text(f"select count(*) from {table} where ctid is not null"))


def seeded_id(now: datetime, events: int, number: int) -> tuple[str, str, str]:
    """The seeded event of this number: its id, its run's, its sender's number."""
    each_ms = (PARTITIONS - AHEAD_DAYS - 1) * _DAY_MS // events
    ms = f"{int(first_day(now).timestamp() * 1000) + number * each_ms:012x}"
    start = f"{ms[:8]}-{ms[8:]}-7000-8{number:09x}"
    begins = f"{start[:23]}-{start[23:]}"
    return f"{begins}000000", f"{begins}{workflow_suffix('bench_flow')}", str(number)
