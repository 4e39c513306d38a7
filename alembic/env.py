"""Runs migrations with guards: no waiting for ever behind a lock, and one migrator at a time.

A migration that queues for a table's lock makes everyone behind it queue too, so it gives up after
`lock_timeout_s`. The advisory lock is held on a connection of its own, so that each migration can
be a transaction of its own; it goes when that connection goes, however this process ends.
"""

from typing import Any

from alembic import context
from sqlalchemy import Engine, create_engine, pool, text

import veltrix.store.access_tables
import veltrix.store.doctor_tables
import veltrix.store.failure_tables
import veltrix.store.history.dropped_tables
import veltrix.store.history.retention_tables
import veltrix.store.replay_tables  # noqa: F401 - its tables join the metadata
from veltrix.store.tables import ADVISORY_LOCK, metadata


def _url(attributes: dict[str, Any]) -> Any:
    url = attributes.get("url") or context.get_x_argument(as_dictionary=True).get("url")
    if not url:
        raise SystemExit(
            "no database named; run `veltrix db upgrade`, or alembic with -x url=postgresql+psycopg://..."
        )
    return url


def _engine(url: Any, **limits_s: float) -> Engine:
    options = " ".join(f"-c {name}={int(value * 1000)}ms" for name, value in limits_s.items())
    return create_engine(
        url,
        poolclass=pool.NullPool,
        connect_args={"options": options, "application_name": "veltrix migrate"},
    )


def migrate() -> None:
    """Runs what alembic was asked for, after every other migrator of this database has ended."""
    attributes = context.config.attributes
    url = _url(attributes)
    turn_s = attributes.get("turn_timeout_s", 300.0)
    guard = _engine(url, lock_timeout=turn_s, statement_timeout=turn_s + 1)
    engine = _engine(
        url,
        lock_timeout=attributes.get("lock_timeout_s", 5.0),
        statement_timeout=attributes.get("statement_timeout_s", 60.0),
    )
    with guard.connect().execution_options(isolation_level="AUTOCOMMIT") as turn:
        turn.execute(text("select pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
        with engine.connect() as connection:
            context.configure(
                connection=connection,
                target_metadata=metadata,
                compare_type=True,
                compare_server_default=True,
                transaction_per_migration=True,
            )
            with context.begin_transaction():
                context.run_migrations()


migrate()
