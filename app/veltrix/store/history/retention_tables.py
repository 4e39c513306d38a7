"""The tables of retention; beside `store.tables`, whose metadata they belong to."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Integer,
    Table,
    Text,
    text,
)

from veltrix.store.tables import COUNTED, metadata

_TIME = DateTime(timezone=True)
_KEY = Text(collation="C")

# How long what ended so is kept: content, and its line in the ledger. Workflow "": of every one
# that has no row of its own. NULL: for ever, as where there is no row at all.
retention_policies = Table(
    "retention_policies",
    metadata,
    Column("workflow", _KEY, primary_key=True),
    Column("outcome", _KEY, primary_key=True),
    Column("content_s", BigInteger),
    Column("lines_s", BigInteger),
    Column("changed_by", Text, nullable=False),
    Column("changed_at", _TIME, nullable=False, server_default=text("now()")),
    CheckConstraint(
        "outcome in ('succeeded','cancelled','failed') or outcome = 'unrouted' and workflow = ''",
        name="outcome",
    ),
    CheckConstraint("content_s > 0 and lines_s >= coalesce(content_s, 1)", name="seconds"),
)

# The books of minutes of which nothing is left: their `counters` in one row for each day (days
# since 1970) and account. `counter_totals` = sealed counters + these.
counter_days = Table(
    "counter_days",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("account_id", Integer, primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False, server_default="0") for name in COUNTED),
)
