"""What a connection of ours is: asked of the server, not believed.

A name may lead to a stand-by, and a pooler may drop the options that we start a session with
(PgBouncer's `ignore_startup_parameters`), or give each transaction another session. So each new
session is asked, in one round trip, whether it can write and whether its settings are ours; and a
pooled one, each time it is taken out, whether it still can. Behind a pooler it is tried whether the
session stays.
"""

import time
from select import select
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from veltrix.store.arrays import TextArray, register_arrays
from veltrix.store.errors import keeps_connection


class SessionShared(psycopg.OperationalError):
    """A pooler gives each transaction another session: nothing of ours can work there."""


_STAND_BY = (
    "the server is a stand-by, or read-only: nothing can be written there; the name must lead to"
    " the primary"
)
_OTHER = (
    "this session cannot be made what it must be ({names}): something between drops `options` and"
    " `set`; connect to PostgreSQL, or to a pooler that pools by session"
)
_SHARED = (
    "a pooler that pools by transaction stands between: what is set for a session, and what is"
    " prepared in it, is not there for its next statement; connect to PostgreSQL, or to a pooler"
    " that pools by session"
)
_LOOKS = 10
_SPARE_S = 1.0  # that a pooler may take for a session, if it has one to spare
_PID = "select pg_catalog.pg_backend_pid()"
_CAN_WRITE = "select current_setting('transaction_read_only') = 'off'"
# Lengths of time compared as such: 30000ms is shown as 30s.
_ASK = """
select current_setting('transaction_read_only') = 'off', array(
    select w.name from unnest(%(name)s, %(value)s) as w(name, value)
    where case when w.value ~ '^[0-9]+ms$'
        then current_setting(w.name)::interval is distinct from w.value::interval
        else current_setting(w.name) is distinct from w.value end
), pg_catalog.pg_backend_pid()
"""
# In a transaction. All that a step can leave in its session, but what psycopg prepared and what was
# `prepare`d by name, which is looked for.
_CLEAN = (
    "reset session authorization; reset role; reset all; close all; unlisten *;"
    " select pg_catalog.pg_advisory_unlock_all(); discard temp; discard sequences;"
)
_PREPARED = (
    "select pg_catalog.quote_ident(name) from pg_catalog.pg_prepared_statements where from_sql;"
)
_DROPPED = (
    "veltrix.settings.fields"  # where the settings are that a session has not got by its options
)
_SET = (
    "select set_config(w.name, w.value, false) from unnest(%(name)s, %(value)s) as w(name, value)"
)


def options_of(settings: dict[str, str]) -> str:
    """The settings as libpq's `options`: they are what `RESET ALL` returns to."""
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def watch_connections(
    engine: Engine, settings: dict[str, str], *, is_writer: bool, is_of_authors: bool
) -> None:
    """Every connection of the engine has these settings, or there is none.

    `is_writer`: and can write. Connecting raises psycopg's ReadOnlySqlTransaction (25006) or
    OperationalError then; and a connection is given up after each error that is neither of the data
    nor to be tried again. `is_of_authors`: not where a missing table is an author's mistake.
    """
    is_gone, is_ours = engine.dialect.is_disconnect, is_writer and not is_of_authors

    def is_disconnect(error: Any, connection: Any, cursor: Any) -> bool:
        if is_ours and isinstance(error, psycopg.Error) and error.sqlstate is not None:
            return not keeps_connection(error)
        return is_gone(error, connection, cursor)

    def do_ping(connection: Any) -> bool:
        can_write = _asked(connection, _CAN_WRITE, {})[0]
        return bool(can_write) or not is_writer

    engine.dialect.is_disconnect = is_disconnect  # type: ignore[method-assign,assignment]
    engine.dialect.do_ping = do_ping  # type: ignore[method-assign,assignment]

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        register_arrays(connection)
        try:
            if not _make_ours(connection, settings, is_writer=is_writer):
                record.info[_DROPPED] = settings
        except BaseException:
            connection.close()  # nobody else will: SQLAlchemy has no record of it yet
            raise


def _make_ours(
    connection: psycopg.Connection[Any], settings: dict[str, str], *, is_writer: bool
) -> bool:
    """The session has these settings; whether by its options, to which it can be reset."""
    wanted = {"name": TextArray(list(settings)), "value": TextArray(list(settings.values()))}
    can_write, dropped, pid = _asked(connection, _ASK, wanted)
    if is_writer and not can_write:
        raise psycopg.errors.ReadOnlySqlTransaction(_STAND_BY)
    # Who pools names a process of PostgreSQL that is not the one which answers.
    if pid != connection.info.backend_pid and _is_shared(connection, pid):
        raise SessionShared(_SHARED)
    if not dropped:
        return True
    _asked(connection, _SET, wanted)
    _, others, _ = _asked(connection, _ASK, wanted)
    if others:
        raise psycopg.OperationalError(_OTHER.format(names=", ".join(others)))
    return False


def _is_shared(connection: psycopg.Connection[Any], pid: int) -> bool:
    """Whether not only the process `pid` answers: tried, also with another connection beside it.

    Its settings say nothing: those that somebody else has set may be there.
    """
    if any(_asked(connection, _PID, {}) != (pid,) for _ in range(_LOOKS)):
        return True  # others use it beside us
    way: dict[str, Any] = connection.info.get_parameters()
    try:
        other = psycopg.connect(**way, password=connection.info.password, autocommit=True)
    except psycopg.OperationalError:
        return False  # there is room for so many sessions, and no more
    try:
        for _ in range(_LOOKS):
            held = _held_by(other)
            if held is None:
                return False  # by session, and there is none to spare
            # If it was given ours, or holds the one that we would be given, ours is not our own.
            if held == pid or _asked(connection, _PID, {}) != (pid,):
                return True
            other.execute("rollback", prepare=False)
    finally:
        other.close()
    return False


def _held_by(connection: psycopg.Connection[Any]) -> int | None:
    """The process that its transaction, which begins now, is held by; None: none has come soon."""
    server = connection.pgconn
    server.send_query(f"begin; {_PID}".encode())
    ends_at = time.monotonic() + _SPARE_S
    while server.is_busy():
        left_s = ends_at - time.monotonic()
        if left_s <= 0 or not select([server.socket], [], [], left_s)[0]:
            return None
        server.consume_input()
    found = None
    while (result := server.get_result()) is not None:
        if result.ntuples:
            found = result.get_value(0, 0)
    if found is None:
        raise psycopg.OperationalError(server.error_message.decode(errors="replace").strip())
    return int(found)


def _asked(connection: psycopg.Connection[Any], question: str, values: dict[str, Any]) -> Any:
    """The first row; the connection is in no transaction, and is in none after it."""
    before = connection.autocommit
    if not before:
        connection.autocommit = True
    try:
        return connection.execute(question, values, prepare=False).fetchone()
    finally:
        if not before and not connection.closed:
            connection.autocommit = False


def clean(tx: Connection, before: str = "", after: str = "") -> None:
    """What an author's code left in the session is gone, for who comes next in it.

    Settings, role, temporary tables, session locks, cursors, listening, what was `prepare`d; of the
    transaction itself what it did and holds is left. One round trip, with the statements `before`
    and `after`.
    """
    for (name,) in execute_plain(tx, before + _CLEAN + _settings_of(tx) + _PREPARED + after):
        execute_plain(tx, f"deallocate {name}")


def _settings_of(tx: Connection) -> str:
    """What a reset of this session does not bring back."""
    settings: dict[str, str] = tx.info.get(_DROPPED, {})
    return "".join(f"set {name} = '{value}';" for name, value in settings.items())


def execute_plain(tx: Connection, statements: str) -> list[tuple[Any, ...]]:
    """Several statements without values in one round trip; the rows of the last that has any.

    Errors are SQLAlchemy's.
    """
    connection = tx.connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    rows: list[tuple[Any, ...]] = []
    try:
        cursor = connection.execute(statements.encode(), prepare=False)
        while True:
            if cursor.description is not None:
                rows = cursor.fetchall()
            if not cursor.nextset():
                return rows
    except psycopg.Error as error:
        raise as_of_sqlalchemy(tx, statements, error) from error


def as_of_sqlalchemy(tx: Connection, statement: str, error: psycopg.Error) -> Exception:
    """The DBAPIError that SQLAlchemy would raise; a lost connection is given up as it would be."""
    connection = tx.connection.driver_connection
    is_gone = connection is None or tx.dialect.is_disconnect(error, connection, None)  # type: ignore[arg-type]
    if is_gone:
        tx.invalidate(error)
    return DBAPIError.instance(
        statement,
        None,
        error,
        psycopg.Error,
        connection_invalidated=is_gone,
        dialect=tx.dialect,
    )
