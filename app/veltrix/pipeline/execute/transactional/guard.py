"""The connection that authors' code reaches: whatever way it goes, its statements pass here.

A session is one way to the server; a cursor of the driver, a thread that outlives its step or
`commit` on the connection itself are others. So the driver's own classes ask a gate.
"""

from typing import Any, Protocol, TypeVar

import psycopg
from psycopg.abc import Params, PQGen
from sqlalchemy import Connection, Engine, event

Found = TypeVar("Found")


class Guard(Protocol):
    """Who is asked."""

    def begin(self, statement: object) -> None:
        """A statement is about to be sent; whatever this raises keeps it from being."""

    def end(self) -> None:
        """It has been answered, or refused."""

    def begin_rollback(self) -> None:
        """The transaction is about to be rolled back; `end` follows."""

    def begin_commit(self) -> None:
        """The transaction is about to be committed; whatever this raises keeps it from being."""

    def pass_by(self) -> None:
        """Something is about to be sent, perhaps without `begin`: a commit, a copy."""


class GuardedConnection(psycopg.Connection[Any]):
    """As psycopg's, with a gate before the server, if there is one."""

    gate: Guard | None = None

    def wait(self, gen: PQGen[Found], *arguments: Any, **options: Any) -> Found:
        """As psycopg's; everything that is sent goes through here."""
        if self.gate is not None:
            self.gate.pass_by()
        return super().wait(gen, *arguments, **options)

    def cursor(self, name: str = "", **options: Any) -> Any:
        """As psycopg's; one of the server's is not opened where it may not be read."""
        if name and self.gate is not None:
            self.gate.pass_by()
        return super().cursor(name, **options)

    def commit(self) -> None:
        """As psycopg's."""
        if self.gate is not None:
            self.gate.begin_commit()
        super().commit()

    def rollback(self) -> None:
        """As psycopg's."""
        gate = self.gate
        if gate is None:
            return super().rollback()
        try:
            gate.begin_rollback()
            return super().rollback()
        finally:
            gate.end()


class _GuardedCursor(psycopg.Cursor[Any]):
    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Any:
        gate = self._conn.gate  # type: ignore[attr-defined]
        if gate is None:
            return super().execute(query, params, **options)
        try:
            gate.begin(query)  # in here: the alarm may ring in it
            return super().execute(query, params, **options)
        finally:
            gate.end()

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        gate = self._conn.gate  # type: ignore[attr-defined]
        if gate is None:
            return super().executemany(query, params_seq, **options)
        try:
            gate.begin(query)  # in here: the alarm may ring in it
            return super().executemany(query, params_seq, **options)
        finally:
            gate.end()


def guard_connections(engine: Engine) -> None:
    """The connections of this engine, none of which is open yet, are guarded."""

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> GuardedConnection:
        return GuardedConnection.connect(*arguments, cursor_factory=_GuardedCursor, **options)


def guarded(tx: Connection) -> GuardedConnection:
    """The driver's connection behind this one, of an engine that is guarded."""
    connection = tx.connection.driver_connection
    assert isinstance(connection, GuardedConnection)
    return connection
