"""The tables of who may do what, who is there, and what they did."""

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from veltrix.store.tables import metadata

_ID = Uuid(as_uuid=False)
_TIME = DateTime(timezone=True)
_KEY = Text(collation="C")
_NOW = text("now()")

api_keys = Table(
    "api_keys",
    metadata,
    Column("name", _KEY, primary_key=True),
    Column("hash", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", _TIME, nullable=False, server_default=_NOW),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", _TIME),
    # Patterns, and limits; null: none.
    Column("sources", ARRAY(Text)),
    Column("types", ARRAY(Text)),
    Column("workflows", ARRAY(Text)),
    Column("rate", Double),
    Column("burst", Integer),
    Column("body_bytes_max", Integer),
    Column("expires_at", _TIME),
    Index("api_keys_hash_idx", "hash", unique=True),
)

# What operators did to runs, by whom and why. Never changed, never deleted.
actions = Table(
    "actions",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("run_id", _ID, nullable=False),
    Column("action", Text, nullable=False),
    Column("generation", SmallInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("acted_at", _TIME, nullable=False, server_default=_NOW),
    Index("actions_run_id_idx", "run_id"),
)

# Answers to unsafe calls, by Idempotency-Key: the same call again gets the same answer.
answers = Table(
    "answers",
    metadata,
    Column("author", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("status", SmallInteger),
    Column("body", JSON),
    Column("asked_at", _TIME, nullable=False, server_default=_NOW),
)

# Who did or asked what, why, to which runs, and what came of it. A trigger keeps rows from being
# changed or deleted, another says id, time and hash: of the row and of the hash before it.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("author", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("target_id", Text),
    Column("reason", Text, nullable=False),
    Column("request", JSON, nullable=False),
    Column("run_ids", ARRAY(_ID), nullable=False),
    Column("runs", Integer, nullable=False),
    Column("runs_digest", LargeBinary),
    Column("result", JSON, nullable=False),
    Column("is_refused", Boolean, nullable=False),
    Column("hash", LargeBinary),
    Index("audit_at_id_idx", "at", "id"),
)

# One row: id and hash of the audit's last row. A trigger goes on from it, so there are no gaps.
audit_numbers = Table(
    "audit_numbers",
    metadata,
    Column("last", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

# Who is signed in to the console: what the browser has is kept as its hash.
sessions = Table(
    "sessions",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("key_name", _KEY, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("csrf", Text, nullable=False),
    Column("made_at", _TIME, nullable=False, server_default=_NOW),
    Column("expires_at", _TIME, nullable=False),
    Index("sessions_expires_at_idx", "expires_at"),
)
