"""The key of the ledger, by which its messages are known from those of another one."""

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from veltrix.store.errors import sqlstate_of
from veltrix.telemetry import logger

_READ = "select value from secrets where name = 'handed'"
_NOT_ALLOWED = ("42501", "42P01")  # no right to read the table, or no such table yet

log = logger("database")


def read_key(tx: Connection) -> bytes | None:
    """The key, or None where there is none or it may not be read: runs are claimed then."""
    try:
        value = tx.exec_driver_sql(_READ).scalar()
    except DBAPIError as error:
        if sqlstate_of(error) not in _NOT_ALLOWED:
            raise
        log.warning("key.unreadable", cure="run `veltrix db grants` again: runs are claimed first")
        return None
    return None if value is None else bytes(value)
