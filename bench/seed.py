"""History by SQL: settled events in the tables of the ledger, with their books.

An event a millisecond, up to some minutes ago, of a source of its own. Its deltas are folded and
its minutes recounted and sealed as any others, which proves the rows beside them.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import Engine, text

from veltrix.dev.children import wait_for
from veltrix.domain.ids import workflow_suffix
from veltrix.operations.books.books import fold_once, recount_once
from veltrix.pipeline.accept import ledger_rows
from veltrix.store.transactions import transaction

BYTES_PER_EVENT = 2_400  # with indexes and PostgreSQL's log: an estimate on the safe side
CHUNK = 50_000
_AGO_MS = 15 * 60_000
_SEAL_S = 1_800.0

_CHUNK = """
with n as materialized (
    select n, :first_ms + n as ms,
        (lpad(to_hex(:first_ms + n), 12, '0') || '70008' || lpad(to_hex(n), 9, '0') || '000000')
            ::uuid as event_id,
        (lpad(to_hex(:first_ms + n), 12, '0') || '70008' || lpad(to_hex(n), 9, '0') || :suffix)
            ::uuid as run_id,
        to_timestamp((:first_ms + n) / 1000.0) as at,
        md5(n::text) as sender_id, sha256(n::text::bytea) as digest
    from generate_series(cast(:low as bigint), cast(:high as bigint) - 1) as n
), i as (
    insert into identities (source, sender_id, digest, event_id)
    select '/history', sender_id, digest, event_id from n order by sender_id
), e as (
    insert into events (id, account_id, minute, unrouted, accepted_at, source, sender_id, type,
        subject, time, data, digest)
    select event_id, :account, ms / 60000, false, at, '/history', sender_id, 'bench.event',
        'bench-' || n % 1000, '2026-01-01T00:00:00Z',
        json_build_object('n', n, 'text', 'some words of an ordinary length'), digest
    from n order by event_id
), r as (
    insert into runs (id, event_id, account_id, minute, payload_bytes, attempt, started_at,
        claimed_at, settled_at, delivery_id, state, workflow, queue, code_version, worker_id,
        outcome, life, steps)
    select run_id, event_id, :account, ms / 60000, 60, 1, at, at, at, event_id, 'succeeded',
        'bench_flow', 'bench', '1', 'worker-1@localhost/1', to_json(n * 2), life_of('succeeded'),
        json_build_array(json_build_array('1', 'step', 'double', encode(digest, 'hex'), n * 2, 1,
            0, 0, json_build_array(json_build_array(n), '{}'::json)::text))::text
    from n order by run_id
)
insert into counter_deltas (account_id, minute, accepted, routed, started, succeeded)
select :account, ms / 60000, count(*), count(*), count(*), count(*) from n group by ms / 60000
"""


class NoRoom(Exception):
    """The disk has too little free space for so much history."""


def check_room(folder: Path, events: int) -> None:
    """Raises NoRoom, saying how many events there is room for."""
    free = shutil.disk_usage(folder).free
    if free < events * BYTES_PER_EVENT:
        possible = free // BYTES_PER_EVENT // 100_000 * 100_000
        raise NoRoom(
            f"{events:,} events take {events * BYTES_PER_EVENT / 2**30:.0f} GiB and"
            f" {free / 2**30:.0f} are free: ask for less with --events {possible}"
        )


def seed(engine: Engine, events: int, note: Callable[[str], None]) -> None:
    """Insert that many settled events, then wait until their minutes are recounted and sealed."""
    with transaction(engine) as tx:
        account = ledger_rows.accounts(tx, [("/history", "bench.event")], 1_000)[
            "/history", "bench.event"
        ]
        now_ms = tx.execute(text("select (extract(epoch from now()) * 1000)::bigint")).scalar_one()
    first_ms = int(now_ms) - _AGO_MS - events
    chunks = [(low, min(low + CHUNK, events)) for low in range(0, events, CHUNK)]

    def insert(chunk: tuple[int, int]) -> int:
        low, high = chunk
        with transaction(engine) as tx:
            tx.execute(text("set local synchronous_commit = off"))
            parts = {"account": account, "first_ms": first_ms, "low": low, "high": high}
            tx.execute(text(_CHUNK), parts | {"suffix": workflow_suffix("bench_flow")})
        return high

    with ThreadPoolExecutor(2) as threads:
        for number, high in enumerate(threads.map(insert, chunks), 1):
            if number % 10 == 0 or high == events:
                note(f"seeded {high:,} of {events:,}")
    for table in ("identities", "events", "runs", "journal"):
        note(f"vacuum of {table}")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"vacuum (analyze) {table}"))
    note("recounting")
    if not wait_for(lambda: _recount(engine, first_ms, events) >= events, deadline_s=_SEAL_S):
        raise RuntimeError("the seeded minutes do not balance")


def _recount(engine: Engine, first_ms: int, events: int) -> int:
    """Fold and recount some, as relays do meanwhile; the seeded events in sealed minutes."""
    fold_once(engine)
    recount_once(engine)
    bounds = {"first": first_ms // 60_000, "last": (first_ms + events - 1) // 60_000}
    with transaction(engine) as tx:
        sealed = tx.execute(
            text(
                "select coalesce(sum(accepted), 0) from counters"
                " where minute between :first and :last and is_sealed and discrepancy = 0"
            ),
            bounds,
        ).scalar_one()
    return int(sealed)
