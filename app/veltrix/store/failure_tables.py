"""The tables of failure groups: what failed in the same way, and what people say of it."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Table,
    Text,
    Uuid,
    text,
)

from veltrix.store.tables import metadata

_ID = Uuid(as_uuid=False)
_TIME = DateTime(timezone=True)
_NOW = text("now()")

# What failed in the same way: runs by their fingerprint, poison runs by workflow, dead letters by
# queue and reason, unrouted events by source and type. `count` is how many there are now, `total`
# how many were ever seen. Archived failures are apart from `count`.
failure_groups = Table(
    "failure_groups",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="open"),
    Column("workflow", Text),
    Column("step", Text),
    Column("type", Text),
    Column("message", Text),
    Column("queue", Text),
    Column("reason", Text),
    Column("source", Text),
    Column("event_type", Text),
    Column("count", BigInteger, nullable=False),
    Column("archived", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("first_seen_at", _TIME, nullable=False),
    Column("last_seen_at", _TIME, nullable=False),
    Column("resolved_version", Text),
    Column("state_changed_at", _TIME, nullable=False, server_default=_NOW),
    Column("state_changed_by", Text),
    Column("state_reason", Text),
    CheckConstraint("kind in ('run','poison','dead_letter','unroutable','unrouted')", name="kind"),
    CheckConstraint("state in ('open','resolved','ignored','regressed')", name="state"),
    Index("failure_groups_last_seen_at_idx", "last_seen_at", "id"),
    Index("failure_groups_first_seen_at_idx", "first_seen_at", "id"),
    Index("failure_groups_count_idx", "count", "id"),
)

# Appended in the transaction of what moves a group's counts; folded by one duty. Runs that succeed
# write none.
failure_deltas = Table(
    "failure_deltas",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("count", BigInteger, nullable=False, server_default="0"),
    Column("archived", BigInteger, nullable=False, server_default="0"),
    Column("seen", BigInteger, nullable=False, server_default="0"),
    Column("seen_at", _TIME, nullable=False, server_default=_NOW),
    Column("run_id", _ID),
    Column("workflow", Text),
    Column("step", Text),
    Column("code_version", Text),
    Column("queue", Text),
    Column("reason", Text),
    Column("source", Text),
    Column("event_type", Text),
    Index("failure_deltas_group_id_idx", "group_id"),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": "0.0",
        "autovacuum_vacuum_threshold": "10000",
    },
)

# How many of a group were seen in an hour, by the version of the code ("": not known).
failure_hours = Table(
    "failure_hours",
    metadata,
    Column("group_id", Text, primary_key=True),
    Column("hour", _TIME, primary_key=True),
    Column("code_version", Text, primary_key=True),
    Column("seen", BigInteger, nullable=False),
)

# What operators wrote beside a group. Never changed.
failure_notes = Table(
    "failure_notes",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("group_id", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("written_at", _TIME, nullable=False, server_default=_NOW),
    Index("failure_notes_group_id_idx", "group_id"),
)
