"""A session of PostgreSQL that only looks, and may be kept between two looks."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeVar

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from veltrix.bootstrap import engine_for
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction_on

T = TypeVar("T")

RENEWED_S = 60.0


class LookingSession:
    """Opened at the first look. For one thread; a stand-by will do.

    To open one costs client and server several times what a look costs, so who looks again and
    again keeps it: for RENEWED_S, since what is set for a role or a database, and where its name
    leads, counts for new sessions alone. `close` when there is no further look; one after it opens
    another.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._monotonic = settings, monotonic
        self._opened_at = monotonic()
        self._engine: Engine | None = None
        self._connection: Connection | None = None

    @property
    def is_configured(self) -> bool:
        """There is an address of a database to look at."""
        return self._settings.database_url is not None

    def look(self, read: Callable[[Connection], T]) -> T:
        """What `read` returns, each of its statements by itself. Raises errors of the database."""
        return self._look(read, "AUTOCOMMIT")

    def look_at_once(self, read: Callable[[Connection], T]) -> T:
        """What `read` returns, all of it as of one moment. Raises errors of the database."""
        return self._look(read, "REPEATABLE READ")

    def close(self) -> None:
        """Give the session up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.invalidate()
            with suppress(Exception):
                connection.close()

    def _look(
        self, read: Callable[[Connection], T], level: Literal["AUTOCOMMIT", "REPEATABLE READ"]
    ) -> T:
        if self._monotonic() - self._opened_at > RENEWED_S:
            self.close()
        was_open = self._connection is not None
        try:
            return self._read(read, level)
        except (DBAPIError, psycopg.Error):
            self.close()
            if not was_open:
                raise
        try:  # it was lost since the last look, which says nothing of the database now
            return self._read(read, level)
        except BaseException:
            self.close()
            raise

    def _read(self, read: Callable[[Connection], T], level: str) -> T:
        if self._connection is None:
            if self._engine is None:
                self._engine = engine_for(
                    self._settings, "veltrix-doctor", statement_timeout_s=5.0, is_writer=False
                )
            self._connection, self._opened_at = self._engine.connect(), self._monotonic()
        connection = self._connection.execution_options(isolation_level=level)
        with transaction_on(connection):
            return read(connection)
