"""The schema's version: move it, and ask whether it is the one this code needs.

SchemaError
 +-- SchemaBusy    somebody holds a lock the migration needs; nothing of it was changed
"""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from veltrix.store.history.split import is_small, is_split, split
from veltrix.store.tables import ADVISORY_LOCK
from veltrix.store.transactions import make_engine, open_autocommit, sqlstate_of

_HERE = Path(__file__).resolve()
_INSTALLED, _CHECKOUT = _HERE.parents[1] / "migrations", _HERE.parents[3] / "alembic"
_LOCK_TIMEOUT = "55P03"
_NO_RIGHT = "42501"
_STATEMENT_TIMEOUT = "57014"
SMALL_ROWS = 100_000


class SchemaError(Exception):
    """The schema could not be moved; the message says why and what to do."""


class SchemaBusy(SchemaError):
    """A lock or a statement took too long. The migration it happened in was rolled back."""


def upgrade(
    url: str,
    revision: str = "head",
    *,
    lock_timeout_s: float = 5.0,
    statement_timeout_s: float = 60.0,
    turn_timeout_s: float = 300.0,
) -> None:
    """The database at `url` is at `revision` or later; each migration is committed whole or not.

    A small ledger at the newest revision is split into days, too; a large one is by a step of its
    own (`store.history.split`).

    Migrators run one after another: this one waits `turn_timeout_s` for its turn, and then finds
    the work done. Raises SchemaBusy if a lock cannot be had within `lock_timeout_s` or a statement
    takes longer than `statement_timeout_s`.
    """
    config = _config(url, lock_timeout_s, statement_timeout_s, turn_timeout_s)
    try:
        command.upgrade(config, revision)
    except DBAPIError as error:
        raise _worded(error, lock_timeout_s, statement_timeout_s) from error
    if revision == "head":
        _split_if_small(url)


def downgrade(
    url: str,
    revision: str,
    *,
    lock_timeout_s: float = 5.0,
    statement_timeout_s: float = 60.0,
    turn_timeout_s: float = 300.0,
) -> None:
    """The database at `url` is back at `revision` (`base`: empty), and so is its data.

    Raises as `upgrade` does.
    """
    config = _config(url, lock_timeout_s, statement_timeout_s, turn_timeout_s)
    try:
        command.downgrade(config, revision)
    except DBAPIError as error:
        raise _worded(error, lock_timeout_s, statement_timeout_s) from error


def _split_if_small(url: str) -> None:
    engine = make_engine(url, application="veltrix migrate")
    try:
        with open_autocommit(engine) as tx:
            is_due = not is_split(tx) and is_small(tx, SMALL_ROWS)
            if is_due:
                tx.exec_driver_sql(f"select pg_advisory_lock({ADVISORY_LOCK})")
                split(engine)
    finally:
        engine.dispose()


@cache
def head() -> str:
    """The revision that this code was written for."""
    revision = _scripts().get_current_head()
    assert revision is not None
    return revision


def at_head(connection: Connection) -> bool:
    """The database has every migration this code knows.

    A revision this code does not know counts: newer code migrated first, and old code must run on
    the new schema while a deploy is under way.
    """
    found = revision_of(connection)
    return found is not None and (found == head() or found not in _known())


def revision_of(connection: Connection) -> str | None:
    """The database's revision; None: it was never migrated."""
    if connection.scalar(text("select to_regclass('alembic_version')")) is None:
        return None
    found = connection.scalar(text("select version_num from alembic_version"))
    return None if found is None else str(found)


@cache
def _known() -> frozenset[str]:
    return frozenset(script.revision for script in _scripts().walk_revisions())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config("", 0, 0, 0))


def _config(
    url: str, lock_timeout_s: float, statement_timeout_s: float, turn_timeout_s: float
) -> Config:
    scripts = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    if not (scripts / "env.py").is_file():
        raise SchemaError(
            f"no migrations in {str(scripts)!r}: this copy of Veltrix is not whole; install the"
            " wheel again, or run `make setup` in a checkout"
        )
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(
        url=url,
        lock_timeout_s=lock_timeout_s,
        statement_timeout_s=statement_timeout_s,
        turn_timeout_s=turn_timeout_s,
    )
    return config


def _worded(error: DBAPIError, lock_timeout_s: float, statement_timeout_s: float) -> Exception:
    state = sqlstate_of(error)
    if state == _LOCK_TIMEOUT and "pg_advisory_lock" in str(error.statement):
        return SchemaBusy(
            "another migrator has been at work on this database all the time; look for `veltrix"
            " migrate` in pg_stat_activity, and try again when it has ended"
        )
    if state == _LOCK_TIMEOUT:
        return SchemaBusy(
            f"another session held a lock that this migration needs for {lock_timeout_s:g} s; the"
            " migration was rolled back. Look for long transactions in pg_stat_activity, try again"
        )
    if state == _NO_RIGHT:
        return SchemaError(
            f"this role may not change the schema ({str(error.orig).strip().splitlines()[0]}); set"
            " VELTRIX_DATABASE_OWNER_URL to the role that owns the tables, for `veltrix db` alone"
        )
    if state == _STATEMENT_TIMEOUT:
        return SchemaBusy(
            f"a statement of this migration took longer than {statement_timeout_s:g} s and was"
            " rolled back; try again with a longer statement timeout when the system is quiet"
        )
    return error
