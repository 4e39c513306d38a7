"""Failed runs by SQL: many of them, as if they had been accepted and settled some time ago."""

from sqlalchemy import Engine, text

from veltrix.domain.ids import workflow_suffix
from veltrix.operations.failures.triage import check_groups
from veltrix.pipeline.accept import ledger_rows
from veltrix.store.transactions import transaction

_SEED = """
with n as materialized (
    select n, :first_ms + n as ms,
        (lpad(to_hex(:first_ms + n), 12, '0') || '70008' || lpad(to_hex(n), 9, '0') || '000000')
            ::uuid as event_id,
        (lpad(to_hex(:first_ms + n), 12, '0') || '70008' || lpad(to_hex(n), 9, '0') || :suffix)
            ::uuid as run_id,
        to_timestamp((:first_ms + n) / 1000.0) as at,
        sha256(n::text::bytea) as digest
    from generate_series(cast(0 as bigint), cast(:count as bigint) - 1) as n
), i as (
    insert into identities (source, sender_id, digest, event_id)
    select '/seeded', n::text, digest, event_id from n order by n::text
), e as (
    insert into events (id, account_id, minute, unrouted, accepted_at, source, sender_id, type,
        data, digest)
    select event_id, :account, ms / 60000, false, at, '/seeded', n::text, 'seeded',
        cast(:data as json), digest
    from n order by event_id
), r as (
    insert into runs (id, event_id, account_id, minute, payload_bytes, attempt, started_at,
        claimed_at, settled_at, state, workflow, queue, code_version, reason, fingerprint,
        failed_step)
    select run_id, event_id, :account, ms / 60000,
        octet_length(cast(cast(:data as json) as text)), 1, at, at, at, 'failed', :workflow,
        :queue, 'old', 'error', 'seeded', 'note'
    from n order by run_id
)
insert into counter_deltas (account_id, minute, accepted, routed, started, failed)
select :account, ms / 60000, count(*), count(*), count(*), count(*) from n group by ms / 60000
"""
_AGO_MS = 5 * 60_000


def seed_failed(engine: Engine, count: int, *, workflow: str, queue: str, data: str) -> None:
    """That many runs that failed with one error, an event a millisecond until 5 minutes ago."""
    with transaction(engine) as tx:
        account = ledger_rows.accounts(tx, [("/seeded", "seeded")], 1_000)["/seeded", "seeded"]
        now_ms = tx.execute(text("select (extract(epoch from now()) * 1000)::bigint")).scalar_one()
        values = {
            "account": account,
            "first_ms": int(now_ms) - _AGO_MS - count,
            "count": count,
            "workflow": workflow,
            "queue": queue,
            "data": data,
            "suffix": workflow_suffix(workflow),
        }
        tx.execute(text(_SEED), values)
    check_groups(engine, is_corrected=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum (analyze) runs"))
