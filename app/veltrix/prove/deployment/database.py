"""The proved database, beside the code under test: read, changed, and asked while it is broken."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from veltrix.dev.children import wait_for
from veltrix.dev.platform import Platform
from veltrix.prove.deployment import witness

_OPEN = """
select id::text, state, coalesce(worker_id, ''), workflow from runs where due_at is not null
"""
_OPEN_COUNT = "select count(*) from runs where due_at is not null"
_COUNTS = """
select coalesce(sum(s), 0)::bigint, (select count(*) from runs where due_at is not null)
from (
    select sum(succeeded + failed + cancelled) as s from counters
    union all select sum(succeeded + failed + cancelled) from counter_deltas
) x
"""


class Unreachable(Exception):
    """The database did not answer in time."""


class ProvedDatabase:
    """The database of a platform, with connections of the harness's own."""

    platform: Platform

    def __init__(self) -> None:
        self.committed: set[tuple[int, str, str]] = set()  # lines of the witness, once seen
        self._connection: psycopg.Connection | None = None
        self._counting: psycopg.Connection | None = None

    def close_connections(self) -> None:
        """None of them is left."""
        for connection in (self._connection, self._counting):
            if connection is not None:
                connection.close()

    def change(self, sql: LiteralString) -> None:
        """Change the database."""
        with self.connect() as connection:
            connection.execute("set default_transaction_read_only = off")
            connection.execute(sql)

    def set_for_all(self, name: LiteralString, value: LiteralString | None) -> None:
        """Sessions that begin from now on have this setting, unless they ask; None: as before."""
        what = "reset {}" if value is None else "set {} = " + value
        with self.connect() as connection:
            connection.execute("set default_transaction_read_only = off")
            database = Identifier(connection.info.dbname)
            statement = SQL("alter database {} " + what).format(database, Identifier(name))
            connection.execute(statement)

    def connect(self) -> psycopg.Connection:
        """A connection of our own, in autocommit."""
        url = self.platform.database_url.replace("postgresql+psycopg://", "postgresql://")
        info = make_conninfo(url, application_name="veltrix prove", connect_timeout=5)
        return psycopg.connect(info, autocommit=True)

    def rows(
        self, sql: LiteralString, values: Mapping[str, Any] | None = None, deadline_s: float = 60.0
    ) -> list[Any]:
        """The rows, however often the connection has to be made again. Raises Unreachable."""
        found: list[Any] = []

        def is_read() -> bool:
            nonlocal found
            try:
                if self._connection is None:
                    self._connection = self.connect()
                found = self._connection.execute(sql, values).fetchall()
            except psycopg.OperationalError:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.close()
                return False
            return True

        if not wait_for(is_read, deadline_s=deadline_s):
            raise Unreachable(f"PostgreSQL did not answer for {deadline_s:.0f} s")
        return found

    def one(self, sql: LiteralString, deadline_s: float = 60.0) -> int:
        """The number that a query gives."""
        return int(self.rows(sql, None, deadline_s)[0][0])

    def open_runs(self) -> list[tuple[str, str, str, str]]:
        """(id, state, worker, workflow) of every run without an outcome."""
        return self.rows(_OPEN)

    def open_count(self) -> int:
        """How many runs have no outcome."""
        return self.one(_OPEN_COUNT)

    def rows_aside(self, sql: LiteralString, values: Mapping[str, Any]) -> list[Any]:
        """The rows, for another thread than the rest. Raises Unreachable at once."""
        try:
            with self.connect() as connection:
                return connection.execute(sql, values).fetchall()
        except psycopg.OperationalError as error:
            raise Unreachable(str(error)) from error

    def counts(self) -> tuple[int, int] | None:
        """Runs with an outcome by the books, and open ones; None when nobody answers.

        For another thread than the rest, with a connection of its own.
        """
        try:
            if self._counting is None:
                self._counting = self.connect()
            row = self._counting.execute(_COUNTS).fetchone()
        except psycopg.OperationalError:
            connection, self._counting = self._counting, None
            if connection is not None:
                connection.close()
            return None
        assert row is not None
        return int(row[0]), int(row[1])

    def look_at_commits(self) -> None:
        """Note what is committed now, for another thread than the rest; see `counts`."""
        if self._counting is not None:
            with suppress(psycopg.OperationalError):
                rows = self._counting.execute(witness.LATEST).fetchall()
                self.committed.update((seq, run_id, xid) for seq, run_id, xid in rows)

    def letters(self) -> set[str]:
        """The digests of the bodies of all dead letters."""
        return {sha256(body).hexdigest() for (body,) in self.rows("select body from dead_letters")}

    def witness_seq(self) -> int:
        """The number of the witness's last line."""
        return self.one("select coalesce(max(seq), 0) from prove_moves")

    def settled(self, run_ids: Sequence[str]) -> list[str]:
        """Those of these runs that have an outcome."""
        sql = "select id::text from runs where id = any(%(ids)s::uuid[]) and due_at is null"
        return [row[0] for row in self.rows(sql, {"ids": list(run_ids)})] if run_ids else []

    def first_moves(self, after: int, run_ids: Sequence[str], but: str = "^$") -> dict[str, float]:
        """See `witness.FIRST_MOVES`; `but`: not by whose name this pattern matches."""
        keys = {"after": after, "ids": list(run_ids), "but": but}
        return dict(self.rows(witness.FIRST_MOVES, keys))
