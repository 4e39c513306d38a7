"""Engines and transactions: the only module that commits.

Hot statements are single statements on an AUTOCOMMIT connection: one round trip is the transaction.
`transaction` is for the few stages that need several.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from veltrix.store.connections import as_of_sqlalchemy, options_of, watch_connections
from veltrix.store.errors import (
    Answer,
    answer_of,
    is_away,
    is_bad_value,
    is_locked,
    is_transient,
    may_be_its_own,
    sqlstate_of,
    told,
)

__all__ = [
    "Link",
    "after_commit",
    "fetch",
    "is_away",
    "is_bad_value",
    "is_locked",
    "is_transient",
    "make_engine",
    "open_autocommit",
    "retry_transient",
    "sqlstate_of",
    "transaction",
    "transaction_on",
]  # with what stages ask of an error, whose table is in veltrix.store.errors

T = TypeVar("T")

TRIES_MAX = 10  # of a statement that loses races, before there is a pause
_AFTER_COMMIT = "veltrix.after_commit"


def make_engine(
    url: str,
    *,
    application: str,
    connections_max: int = 1,
    statement_timeout_s: float = 30.0,
    connect_timeout_s: int = 5,
    is_hot: bool = False,
    is_naming: bool = False,
    is_tried: bool = True,
    is_writer: bool = False,
    is_of_authors: bool = False,
) -> Engine:
    """An engine whose connections are made for short set-based statements.

    Every connection: `synchronous_commit=on` whatever the server's default (promise 1), text in
    UTF-8 whatever the role, the database or the environment says, statement and lock limits, no
    JIT, and index plans even while statistics of a new table say it is empty.
    `is_hot` is for our own statements of every event: they are planned once per connection, not for
    each list anew, which took PostgreSQL twice as long as to execute a list of one (1.0 ms beside
    0.4 for accept, claim and settle). `is_naming`: for statements that name their rows in an
    array beside each join (claim, write, leases), which are planned without loops over look-ups: a
    table of open runs that was empty then invites them. `is_tried`: a pooled connection is tried
    before it is used, so that a restart of the server is not seen; who tries again anyway saves a
    round trip.
    `is_of_authors`: statements of transactional steps run there. Open it after a fork, never before
    (loss mode D06).

    There is no connection with a session that is not as said here, nor, if `is_writer`, to a
    stand-by: both are errors of the database, as if it were away.
    """
    settings = {
        "synchronous_commit": "on",
        "statement_timeout": f"{int(statement_timeout_s * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{int(statement_timeout_s * 1000)}ms",
        "lock_timeout": f"{int(statement_timeout_s * 500)}ms",
        "jit": "off",
        "enable_seqscan": "off",
        "timezone": "UTC",
        "client_encoding": "UTF8",
        "plan_cache_mode": "force_generic_plan" if is_hot else "auto",
        "enable_nestloop": "off" if is_naming else "on",
    }
    engine = create_engine(
        url,
        connect_args={
            "options": options_of(settings),
            "application_name": application,
            "connect_timeout": connect_timeout_s,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
        **_pool(connections_max, connect_timeout_s, is_tried=is_tried),
    )
    watch_connections(engine, settings, is_writer=is_writer, is_of_authors=is_of_authors)
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
        raise as_of_sqlalchemy(tx, statement, error) from error


def _cursor(tx: Connection, statement: str) -> tuple[psycopg.Cursor[tuple[Any, ...]], bytes]:
    connection = tx.connection.driver_connection
    assert connection is not None
    kept = tx.info[statement] = connection.cursor(), statement.encode()
    return kept


class Link:
    """An AUTOCOMMIT connection that comes back: work is held while the database cannot do it.

    `wait(seconds)` pauses between tries; it may raise to give up. `say` is told at each failure
    what is the matter, and None when all is well again.
    """

    def __init__(
        self,
        engine: Engine,
        wait: Callable[[float], object],
        pause_s_max: float = 1.0,
        say: Callable[[str | None], object] = lambda _trouble: None,
    ) -> None:
        self._engine, self._wait, self._pause_s_max = engine, wait, pause_s_max
        self._say = say
        self._is_stuck = False
        self._connection: Connection | None = None
        self.opened = 0  # connections so far: each may be to another server

    def call(
        self,
        statement: Callable[[Connection], T],
        on_return: Callable[[Connection], object] | None = None,
        tries_max: int | None = None,
    ) -> T:
        """The statement's result, however long the database cannot serve it.

        After a lost connection nobody knows whether the statement was committed: `on_return` runs
        before it is tried again, to find out. A lost race is run again at once: nothing of it was
        committed. Raises what says that a value cannot be stored, and with `tries_max` an error
        that may be the statement's own, when it was met so often: it lost its connection without a
        word, lost races or reached its limit of time each time, or is refused.
        """
        pause_s, blamed, is_uncertain = 0.05, 0, False
        while True:
            is_open = self._connection is not None
            try:
                if self._connection is None:
                    self._connection = open_autocommit(self._engine)
                    self.opened += 1
                    is_open = True
                if is_uncertain and on_return is not None:
                    on_return(self._connection)
                found = retry_transient(partial(statement, self._connection))
            except (DBAPIError, psycopg.Error) as error:
                answer = answer_of(error)
                if answer is Answer.DATA:
                    raise
                if answer is not Answer.AGAIN:
                    self.close()
                    is_uncertain = is_uncertain or is_open
                blamed += is_open and may_be_its_own(error)
                if tries_max is not None and blamed >= tries_max:
                    raise
                self._is_stuck = True
                self._say(told(error))
                pauses = 5 if answer is Answer.OUR_FAULT else 1
            else:
                if self._is_stuck:  # since this call or, where `wait` gave up, one before it
                    self._is_stuck = False
                    self._say(None)
                return found
            self._wait(pause_s)
            pause_s = min(pause_s * 2, self._pause_s_max * pauses)

    def close(self) -> None:
        """Give the connection up; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()
            with suppress(Exception):
                connection.close()


def retry_transient(statement: Callable[[], T], tries: int = TRIES_MAX) -> T:
    """The statement's result, tried again while it loses races (40xxx, 55P03)."""
    for _ in range(tries - 1):
        try:
            return statement()
        except DBAPIError as error:
            if not is_transient(error):
                raise
    return statement()
