"""What PostgreSQL says about statements: how often, how long, how much of its log."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Engine, text

from veltrix.store.transactions import open_autocommit

# Words that only one of our statements has, and what that statement is called.
_NAMES = (
    ("insert into identities", "accept"),
    ("steps = s_j", "write"),
    ("insert into journal", "write"),
    ("attempt = least(r.attempt +", "claim"),
    ("as k(id, delivery_id, ago)", "announce"),
    ("d.first_handed", "look"),
    ("hand_overs = least(r.hand_overs +", "scan"),
    ("with stretch as", "sweep"),
    ("pg_try_advisory_xact_lock", "fold"),
    ("counter_deltas", "fold"),
    ("insert into workers", "report"),
)
_READ = """
select query, calls, total_exec_time + total_plan_time as ms, wal_bytes, shared_blks_hit,
    shared_blks_read, rows
from pg_stat_statements s join pg_database d on d.oid = s.dbid
where d.datname = current_database()
order by total_exec_time + total_plan_time desc
"""


class Statement(NamedTuple):
    """A statement's figures since the last `reset`."""

    name: str
    calls: int
    ms: float
    wal_bytes: int
    blocks: int
    blocks_read: int
    rows: int


def reset(engine: Engine) -> None:
    """Forget everything; makes the extension the first time."""
    with open_autocommit(engine) as connection:
        connection.execute(text("create extension if not exists pg_stat_statements"))
        connection.execute(text("select pg_stat_statements_reset()"))


def checkpoint(engine: Engine) -> None:
    """Write everything that PostgreSQL still has to write, and wait for it."""
    with open_autocommit(engine) as connection:
        connection.execute(text("checkpoint"))


def read(engine: Engine) -> list[Statement]:
    """All statements of this database, the most expensive first."""
    with open_autocommit(engine) as connection:
        rows = connection.execute(text(_READ)).all()
    return [
        Statement(name_of(query), calls, ms, int(wal), hit + seen, seen, found)
        for query, calls, ms, wal, hit, seen, found in rows
    ]


def by_name(statements: Sequence[Statement]) -> dict[str, Statement]:
    """Summed up by name."""
    found: dict[str, Statement] = {}
    for one in statements:
        known = found.get(one.name)
        if known is not None:
            sums = [a + b for a, b in zip(known[1:], one[1:], strict=True)]
            one = Statement(one.name, *sums)  # type: ignore[arg-type]  # noqa: PLW2901
        found[one.name] = one
    return found


def name_of(query: str) -> str:
    """What the statement is called here, or its beginning."""
    for words, name in _NAMES:
        if words in query:
            return name
    return re.sub(r"\s+", " ", query).strip()[:60]
