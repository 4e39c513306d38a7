"""The tables of the doctor's watch; beside `tables.py`, whose metadata they belong to."""

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from veltrix.store.tables import metadata

_TIME = DateTime(timezone=True)

# One row: who watches (until `expires_at`, unless it looks again), and what its last look was.
doctor_looks = Table(
    "doctor_looks",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("watcher", Text, nullable=False),
    Column("looked_at", _TIME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
    Column("took_ms", Integer, nullable=False),
    Column("held", Integer, nullable=False),
    Column("not_checked", JSON, nullable=False),
    CheckConstraint("id = 1", name="one"),
)

# What a look found, from when it appeared until it was gone. Both `told_at`: the webhook knows.
doctor_findings = Table(
    "doctor_findings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("finding", JSON, nullable=False),
    Column("appeared_at", _TIME, nullable=False),
    Column("seen_at", _TIME, nullable=False),
    Column("gone_at", _TIME),
    Column("told_at", _TIME),
    Column("gone_told_at", _TIME),
)

# Canary events: by the id that their sender gave them, which queue through which api. `ending`
# NULL: it is on its way.
canaries = Table(
    "canaries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("api", Text, nullable=False),
    Column("sent_at", _TIME, nullable=False),
    Column("event_id", Uuid(as_uuid=False)),
    Column("ending", Text),
    Column("ended_at", _TIME),
    Column("took_ms", BigInteger),
    CheckConstraint("ending in ('out', 'late', 'lost')", name="ending"),
    CheckConstraint("(ending is null) = (ended_at is null)", name="ended"),
    Index("canaries_way_idx", "sent_at", postgresql_where=text("ending is null")),
    Index("canaries_ended_idx", "sent_at"),
)
