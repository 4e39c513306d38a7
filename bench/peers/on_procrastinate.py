"""Procrastinate: its jobs are rows of the same PostgreSQL, so there is no broker and no outbox.

Event and job are committed together (howto "external connection"), a batch of them by
`batch_defer_async` (howto "batch defer"); jobs are kept when they are done, its default; those of a
dead worker are taken up again (howto "retry stalled jobs").
`python -m bench.peers.on_procrastinate` makes the tables.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from procrastinate import App, JobContext, PsycopgConnector
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import make_url

from bench.peers import ledger
from bench.peers.front import Event, make_front

_URL = make_url(ledger.database_url()).set(drivername="postgresql")
_CONNINFO = _URL.render_as_string(hide_password=False)
_SIZE = ledger.setting("connections")
_ACCEPT = """
insert into events (id, body) select * from unnest(%s::text[], %s::text[])
on conflict do nothing returning id
"""
_FIND = "select body, settled_at is not null from events where id = %s"
_SETTLE = (
    "update events set output = %s, settled_at = clock_timestamp()"
    " where id = %s and settled_at is null"
)

app = App(connector=PsycopgConnector(conninfo=_CONNINFO, min_size=4, max_size=_SIZE))
# The jobs' own pool; a worker opens it with its first job.
pool = AsyncConnectionPool(_CONNINFO, min_size=1, max_size=_SIZE, open=False)


@app.task(name="peer.run", queue="peer", retry=True)
async def run(event_id: str) -> None:
    """One event: a settled run is left alone, else its step is run and its outcome committed."""
    await pool.open()
    async with pool.connection() as tx:
        found = await (await tx.execute(_FIND, (event_id,))).fetchone()
        assert found is not None
        body, is_settled = found
        if not is_settled:
            await tx.execute(_SETTLE, (ledger.double(body), event_id))


@app.periodic(cron="*/10 * * * *")
@app.task(queueing_lock="retry_stalled_jobs", pass_context=True)
async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Jobs whose worker died are done by another."""
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(job)


async def accept(events: Sequence[Event]) -> None:
    """All of them and their jobs are committed; known ids change nothing."""
    rows = ledger.parameters(events)
    async with pool.connection() as tx:
        new = await (await tx.execute(_ACCEPT, (rows["ids"], rows["bodies"]))).fetchall()
        if new:
            jobs = [{"event_id": event_id} for (event_id,) in new]
            await run.configure(connection=tx).batch_defer_async(*jobs)


async def count_open() -> int:
    """Events without an outcome."""
    async with pool.connection() as connection:
        found = await (await connection.execute(str(ledger.OPEN))).fetchone()
    assert found is not None
    return int(found[0])


@asynccontextmanager
async def _opened() -> AsyncIterator[None]:
    async with app.open_async(), pool:
        yield


web = make_front(accept, count_open, _opened)


async def _make_tables() -> None:
    async with app.open_async(), pool, pool.connection() as tx:
        await tx.execute(ledger.SCHEMA)
        await app.schema_manager.apply_schema_async()


if __name__ == "__main__":
    asyncio.run(_make_tables())
