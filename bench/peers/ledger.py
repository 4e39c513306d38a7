"""The tables of those peers that have none for events and outcomes, and all statements on them.

`python -m bench.peers.ledger` makes them. One row is event, journal of its one step and outcome:
the least that keeps the promises. The outbox is what has not been confirmed by the broker yet.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from functools import cache

from sqlalchemy import Engine, create_engine, text

from bench.peers.front import Event

SCHEMA = """
create table events (
    id text primary key, body text not null,
    accepted_at timestamptz not null default clock_timestamp(),
    output bigint, settled_at timestamptz);
create index events_open on events (accepted_at) where settled_at is null;
create table outbox (number bigint generated always as identity primary key, event_id text not null)
"""
ACCEPT = text("""
with new as (
    insert into events (id, body)
    select * from unnest(cast(:ids as text[]), cast(:bodies as text[]))
    on conflict do nothing returning id)
insert into outbox (event_id) select id from new
""")
OPEN = text("select count(*) from events where settled_at is null")
FIND = text("select body, settled_at is not null as is_settled from events where id = :id")
SETTLE = text(
    "update events set output = :output, settled_at = clock_timestamp()"
    " where id = :id and settled_at is null"
)


def database_url() -> str:
    """As given by run.py, for SQLAlchemy with psycopg."""
    return os.environ["PEER_DATABASE_URL"]


def setting(name: str) -> int:
    """One of the numbers that roster.py says a peer is tuned by."""
    return int(os.environ[f"PEER_{name.upper()}"])


@cache
def engine() -> Engine:
    """One per process, opened when it is first asked for: after a fork."""
    return create_engine(database_url(), pool_size=32)


def parameters(events: Sequence[Event]) -> dict[str, list[str]]:
    """Those of ACCEPT, in the order of their ids so that two batches never deadlock."""
    ordered = sorted(events, key=lambda event: event.id)
    return {"ids": [one.id for one in ordered], "bodies": [one.body for one in ordered]}


def double(body: str) -> int:
    """The step: the same as in bench/flows.py."""
    return int(json.loads(body)["n"]) * 2


def run_once(event_id: str) -> None:
    """The workflow: a settled run is left alone, else its step is run and its outcome committed."""
    with engine().begin() as tx:
        event = tx.execute(FIND, {"id": event_id}).one()
        if not event.is_settled:
            tx.execute(SETTLE, {"id": event_id, "output": double(event.body)})


async def accept(events: Sequence[Event]) -> None:
    """All of them and what is to be published are committed; known ids change nothing."""

    def commit() -> None:
        with engine().begin() as tx:
            tx.execute(ACCEPT, parameters(events))

    await asyncio.to_thread(commit)


async def count_open() -> int:
    """Events without an outcome."""

    def count() -> int:
        with engine().connect() as connection:
            return int(connection.execute(OPEN).scalar_one())

    return await asyncio.to_thread(count)


if __name__ == "__main__":
    with engine().begin() as opening:
        opening.execute(text(SCHEMA))
