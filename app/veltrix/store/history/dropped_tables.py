"""The tables of what has left the ledger; beside `tables.py`, whose metadata they belong to."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, LargeBinary, Table, Uuid

from veltrix.store.tables import metadata

_ID = Uuid(as_uuid=False)

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
