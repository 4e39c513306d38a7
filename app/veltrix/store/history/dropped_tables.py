"""The tables of what has left the ledger; beside `tables.py`, whose metadata they belong to."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)

from veltrix.store.tables import metadata

_ID = Uuid(as_uuid=False)
_TIME = DateTime(timezone=True)
_KEY = Text(collation="C")
_NOW = text("now()")

# One row, made with the table: which ledger this is, as its archives name it. No secret.
ledger = Table("ledger", metadata, Column("id", _ID, primary_key=True))


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


# The books of what was dropped: how many rows of an account's minute left with a drop. A minute may
# be in several drops. `digest`: of the ids of events and runs that left (`dropped_rows`); NULL: no
# such row left, dead letters did. Counters = rows + dropped, at every moment. Never updated.
dropped = Table(
    "dropped",
    metadata,
    Column("minute", Integer, primary_key=True, autoincrement=False),
    Column("account_id", Integer, primary_key=True, autoincrement=False),
    Column("drop_id", _ID, primary_key=True),
    _count("accepted"),
    _count("routed"),
    _count("unrouted"),
    _count("started"),
    _count("succeeded"),
    _count("failed"),
    _count("cancelled"),
    _count("dead_letters"),
    Column("digest", LargeBinary),
    CheckConstraint("accepted = routed + unrouted", name="events"),
    CheckConstraint("started = succeeded + failed + cancelled", name="nothing_open"),
)

# How far each drop of a part of the ledger is; one at a time, so that its steps are in order.
retention_drops = Table(
    "retention_drops",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("part", Text, nullable=False),
    Column("first_id", _ID, nullable=False),
    Column("end_id", _ID, nullable=False),
    Column("first_minute", Integer, nullable=False),
    Column("end_minute", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("archive", Text),
    Column("events_left", BigInteger, nullable=False, server_default="0"),
    Column("events_kept", BigInteger, nullable=False, server_default="0"),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Column("began_at", _TIME, nullable=False, server_default=_NOW),
    Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    Column("identities_forgotten_at", _TIME),
    CheckConstraint(
        "state in ('copying', 'swapped', 'counted', 'archived', 'lined', 'freed')", name="state"
    ),
    Index(
        "retention_drops_unfinished_idx",
        text("(true)"),
        unique=True,
        postgresql_where=text("state <> 'freed'"),
    ),
)

# Events that changed since a drop began to copy what stays of their day.
retention_touched = Table("retention_touched", metadata, Column("event_id", _ID, nullable=False))

# What the books keep of an event, and of each run of it, when their contents are gone.
ledger_lines = Table(
    "ledger_lines",
    metadata,
    Column("event_id", _ID, nullable=False),
    Column("run_id", _ID),
    Column("account_id", Integer, nullable=False),
    Column("sender_id", _KEY, nullable=False),
    Column("accepted_at", _TIME, nullable=False),
    Column("workflow", Text),
    Column("state", Text),
    Column("settled_at", _TIME),
    Column("digest", LargeBinary, nullable=False),
    Index("ledger_lines_event_id_idx", "event_id"),
    postgresql_partition_by="RANGE (event_id)",  # a part for each that was dropped, with its bounds
)
