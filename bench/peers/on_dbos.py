"""DBOS: events are workflows in its queue, steps and outcomes are in its tables; no broker.

The workflow's id is the event's (docs, "workflow IDs and idempotency"). DBOS has no enqueue for a
list: the batch is enqueued in one transaction by `DBOSClient.enqueue_in_transaction`.
`python -m bench.peers.on_dbos setup` makes the tables and the queue, `... work NAME` is a worker.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache

from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions
from sqlalchemy import Engine, create_engine, text

from bench.peers.front import Event, make_front
from bench.peers.ledger import database_url, setting

_OPEN = text("select count(*) from dbos.workflow_status where status in ('ENQUEUED', 'PENDING')")


@DBOS.step()
def double(number: int) -> int:
    """The step: the same as in bench/flows.py."""
    return number * 2


@DBOS.workflow()
def run(body: str) -> int:
    """One event."""
    return int(double(json.loads(body)["n"]))


@DBOS.step()
async def double_async(number: int) -> int:
    """The same, for `PEER_WORKFLOW=run_async`."""
    return number * 2


@DBOS.workflow()
async def run_async(body: str) -> int:
    """The same, for `PEER_WORKFLOW=run_async`."""
    return int(await double_async(json.loads(body)["n"]))


@cache
def engine() -> Engine:
    """One per process."""
    return create_engine(database_url(), pool_size=setting("connections"))


@cache
def client() -> DBOSClient:
    """What the front enqueues with."""
    return DBOSClient(system_database_engine=engine(), application_name="peer")


async def accept(events: Sequence[Event]) -> None:
    """All of them are committed as workflows in the queue; known ids change nothing."""

    def commit() -> None:
        with engine().begin() as tx:
            for event in sorted(events, key=lambda one: one.id):
                options: EnqueueOptions = {
                    "workflow_name": os.environ["PEER_WORKFLOW"],
                    "queue_name": "peer",
                    "workflow_id": event.id,
                    "app_version": "1",
                }
                client().enqueue_in_transaction(tx, options, event.body)

    await asyncio.to_thread(commit)


async def count_open() -> int:
    """Workflows without an outcome."""

    def count() -> int:
        with engine().connect() as connection:
            return int(connection.execute(_OPEN).scalar_one())

    return await asyncio.to_thread(count)


web = make_front(accept, count_open)


def _launch(name: str) -> None:
    config: DBOSConfig = {
        "name": "peer",
        "system_database_url": database_url(),
        "application_version": "1",
        "executor_id": name,
        "sys_db_pool_size": setting("connections"),
        "max_executor_threads": setting("concurrency") * 2,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()


def _set_up() -> None:
    _launch("setup")
    DBOS.register_queue(
        "peer",
        worker_concurrency=setting("concurrency"),
        polling_interval_sec=setting("poll_ms") / 1000,
    )
    DBOS.destroy()


if __name__ == "__main__":
    if sys.argv[1] == "setup":
        _set_up()
    else:
        _launch(sys.argv[2])
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
        os._exit(0)  # its threads wait for the queue to run dry
