"""Engines and transactions: the only module that commits.

Hot statements are single statements on an AUTOCOMMIT connection: one round trip is the transaction.
`transaction` is for the few stages that need several.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from app.store.arrays import register_arrays

T = TypeVar("T")

# Serialization failures, deadlocks and lock time-outs: the same statement again is right.
_LOCKED = "55P03"
_TRANSIENT = frozenset({"40001", "40P01", _LOCKED})
_AFTER_COMMIT = "veltrix.after_commit"
_DATA_CLASSES = frozenset({"22", "23", "54"})


def make_engine(
    url: str,
    *,
    application: str,
    connections_max: int = 1,
    statement_timeout_s: float = 30.0,
    connect_timeout_s: int = 5,
    is_hot: bool = False,
    is_tried: bool = True,
) -> Engine:
    """An engine whose connections are made for short set-based statements.

    Every connection: `synchronous_commit=on` whatever the server's default (promise 1), statement
    and lock limits, no JIT, and index plans even while statistics of a new table say it is empty.
    `is_hot` is for our own statements of every event: they are planned once per connection, not for
    each list anew, which took PostgreSQL twice as long as to execute a list of one (1.0 ms beside
    0.4 for accept, claim and settle). `is_tried`: a pooled connection is tried before it is used,
    so that a restart of the server is not seen; who tries again anyway saves a round trip. Open it
    after a fork, never before (loss mode D06).
    """
    options = " ".join(
        f"-c {name}={value}"
        for name, value in {
            "synchronous_commit": "on",
            "statement_timeout": f"{int(statement_timeout_s * 1000)}ms",
            "idle_in_transaction_session_timeout": f"{int(statement_timeout_s * 1000)}ms",
            "lock_timeout": f"{int(statement_timeout_s * 500)}ms",
            "jit": "off",
            "enable_seqscan": "off",
            "timezone": "UTC",
            "plan_cache_mode": "force_generic_plan" if is_hot else "auto",
        }.items()
    )
    engine = create_engine(
        url,
        connect_args={
            "options": options,
            "application_name": application,
            "connect_timeout": connect_timeout_s,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
        **_pool(connections_max, connect_timeout_s, is_tried=is_tried),
    )

    @event.listens_for(engine, "connect")
    def _prepare(dbapi_connection: Any, _record: Any) -> None:
        register_arrays(getattr(dbapi_connection, "driver_connection", dbapi_connection))

    return engine


def _pool(connections_max: int, connect_timeout_s: int, *, is_tried: bool) -> dict[str, Any]:
    if connections_max == 1:
        return {"poolclass": NullPool}
    return {
        "poolclass": QueuePool,
        "pool_size": connections_max,
        "max_overflow": 0,
        "pool_timeout": connect_timeout_s,
        "pool_pre_ping": is_tried,
        # By turns, each of them would in time open, cache and plan what one of them has.
        "pool_use_lifo": True,
    }


def open_autocommit(engine: Engine) -> Connection:
    """A connection on which every statement is its own committed transaction."""
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def transaction(engine: Engine, *, snapshot: bool = False) -> Iterator[Connection]:
    """One transaction: committed at the end of the block, rolled back by an exception.

    `snapshot=True` reads everything as of one moment (REPEATABLE READ).
    """
    options = {"isolation_level": "REPEATABLE READ"} if snapshot else {}
    with engine.connect().execution_options(**options) as connection, transaction_on(connection):
        yield connection


@contextmanager
def transaction_on(connection: Connection) -> Iterator[Connection]:
    """One transaction on an open (not AUTOCOMMIT) connection."""
    connection.info.pop(_AFTER_COMMIT, None)
    with connection.begin():
        yield connection
    for call in connection.info.pop(_AFTER_COMMIT, ()):
        call()


def after_commit(tx: Connection, call: Callable[[], object]) -> None:
    """Make this call when the transaction is committed, never if it is not.

    On an AUTOCOMMIT connection, where what was done is committed already, at once.
    """
    if tx.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        call()
    else:
        tx.info.setdefault(_AFTER_COMMIT, []).append(call)


def fetch(tx: Connection, statement: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
    """The rows of a statement of every event; `statement` is a constant, errors are SQLAlchemy's.

    psycopg executes it without SQLAlchemy, whose account of a statement, its columns and its rows
    takes longer than PostgreSQL does for a list of one. Each statement keeps its cursor as long as
    the connection lives, with what psycopg found out about the types of values and columns (and
    the last rows, until the next).
    """
    if not tx.in_transaction():
        tx.begin()  # as SQLAlchemy does: without it, a lost connection would be replaced unnoticed
    cursor, query = tx.info.get(statement) or _cursor(tx, statement)
    try:
        return cursor.execute(query, values, binary=True).fetchall()
    except psycopg.Error as error:
        raise _as_of_sqlalchemy(tx, statement, error) from error


def _cursor(tx: Connection, statement: str) -> tuple[psycopg.Cursor[tuple[Any, ...]], bytes]:
    connection = tx.connection.driver_connection
    assert connection is not None
    kept = tx.info[statement] = connection.cursor(), statement.encode()
    return kept


def _as_of_sqlalchemy(tx: Connection, statement: str, error: psycopg.Error) -> Exception:
    """The DBAPIError that SQLAlchemy would raise; a lost connection is given up as it would be."""
    connection = tx.connection.driver_connection
    is_lost = connection is None or connection.closed
    if is_lost:
        tx.invalidate(error)
    return DBAPIError.instance(
        statement,
        None,
        error,
        psycopg.Error,
        connection_invalidated=is_lost,
        dialect=tx.dialect,
    )


class Link:
    """An AUTOCOMMIT connection that comes back: work is held while the database is away.

    `wait(seconds)` pauses between attempts to reconnect; it may raise to give up.
    """

    def __init__(
        self, engine: Engine, wait: Callable[[float], object], pause_s_max: float = 1.0
    ) -> None:
        self._engine, self._wait, self._pause_s_max = engine, wait, pause_s_max
        self._connection: Connection | None = None

    def call(
        self,
        statement: Callable[[Connection], T],
        on_return: Callable[[Connection], object] | None = None,
    ) -> T:
        """The statement's result, however long the database is away.

        After a lost connection nobody knows whether the statement was committed: `on_return` runs
        before it is tried again, to find out. A lost race is run again at once: nothing of it was
        committed. Raises what is neither an outage nor a time-out.
        """
        pause_s, is_uncertain = 0.05, False
        while True:
            try:
                if self._connection is None:
                    self._connection = open_autocommit(self._engine)
                if is_uncertain and on_return is not None:
                    on_return(self._connection)
                return retry_transient(partial(statement, self._connection))
            except (DBAPIError, psycopg.OperationalError) as error:
                is_timeout = sqlstate_of(error) == "57014"
                if not is_timeout and not is_away(error):
                    raise
                if not is_timeout:
                    self.close()
                is_uncertain = True
            self._wait(pause_s)
            pause_s = min(pause_s * 2, self._pause_s_max)

    def close(self) -> None:
        """Give the connection up; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()
            with suppress(Exception):
                connection.close()


def sqlstate_of(error: BaseException) -> str | None:
    """The five-character SQLSTATE behind an error of SQLAlchemy or psycopg, or None."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def is_transient(error: BaseException) -> bool:
    """The statement lost a race and may be tried again at once."""
    return sqlstate_of(error) in _TRANSIENT


def is_locked(error: BaseException) -> bool:
    """Another transaction holds the lock, and was not waited for any longer (55P03)."""
    return sqlstate_of(error) == _LOCKED


def is_bad_value(error: BaseException) -> bool:
    """A value cannot be stored (SQLSTATE 22, 23, 54, or the driver refuses): halve the list."""
    state = sqlstate_of(error)
    if state is not None:
        return state[:2] in _DATA_CLASSES
    original = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(original, psycopg.DataError | UnicodeError | OverflowError)


def is_away(error: BaseException) -> bool:
    """The database cannot be reached now, or ended the connection: hold on to the work and wait."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = sqlstate_of(error)
    if state is not None:
        return state[:2] in {"08", "57", "53"} and state != "57014"
    original = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(original, psycopg.OperationalError | OperationalError)


def retry_transient(statement: Callable[[], T], tries: int = 10) -> T:
    """The statement's result, tried again while it loses races (40001, 40P01, 55P03)."""
    for _ in range(tries - 1):
        try:
            return statement()
        except DBAPIError as error:
            if not is_transient(error):
                raise
    return statement()
