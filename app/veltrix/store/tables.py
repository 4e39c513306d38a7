"""The tables, one by one. Migrations in `alembic/` create them; a test says the two agree.

No foreign keys between events, identities, runs and journal: they would cost a look-up per row on
the path of an event and would forbid dropping old time partitions (docs/decisions/0002).
"""

from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

ADVISORY_LOCK = 0x7665_6C74_7269_78  # "veltrix": who changes the schema or its rights holds it
metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "pk": "%(table_name)s_pkey",
    }
)

# An identity is of one table; this numbers the rows of all parts of one.
Sequence("failed_attempts_ids", metadata=metadata)

_ID = Uuid(as_uuid=False)
_TIME = DateTime(timezone=True)
_KEY = Text(collation="C")  # compared byte by byte: cheaper, and identities are bytes, not words
_NOW = text("now()")
# Open runs are rewritten three times in a short life: their dead versions must go before they
# cover the index, however large the history is (mechanics 15).
_HOT_TABLE: dict[str, Any] = {
    "postgresql_with": {
        "autovacuum_vacuum_scale_factor": "0.0",
        "autovacuum_vacuum_threshold": "50000",
        "autovacuum_vacuum_insert_scale_factor": "0.0",
        "autovacuum_vacuum_insert_threshold": "1000000",
        "autovacuum_analyze_scale_factor": "0.0",
        "autovacuum_analyze_threshold": "500000",
    }
}

# An (event source, event type) pair: what the books are kept by, besides the minute. Its unrouted
# events have a failure group of their own (NULL: none was folded yet), or share one with others.
accounts = Table(
    "accounts",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("source", _KEY, nullable=False),
    Column("type", _KEY, nullable=False),
    Column("has_unrouted_group", Boolean),
    Index("accounts_source_type_idx", "source", "type", unique=True),
    Index("accounts_unrouted_group_idx", "id", postgresql_where=text("has_unrouted_group")),
)

# source + id + digest -> event. A table of its own, so that events can become time partitions.
identities = Table(
    "identities",
    metadata,
    Column("source", _KEY, primary_key=True),
    Column("sender_id", _KEY, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("event_id", _ID, nullable=False),
)

# The ledger: accepted events, payloads as sent (json keeps what jsonb would change: mechanics 9).
events = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("account_id", Integer, nullable=False),
    Column("minute", Integer, nullable=False),
    Column("unrouted", Boolean, nullable=False),
    Column("accepted_at", _TIME, nullable=False),
    Column("source", _KEY, nullable=False),
    Column("sender_id", _KEY, nullable=False),
    Column("type", _KEY, nullable=False),
    Column("subject", Text),
    Column("time", Text),
    Column("datacontenttype", Text),
    Column("dataschema", Text),
    Column("data", JSON),
    Column("data_binary", LargeBinary),
    Column("extensions", JSON),
    Column("traceparent", Text),
    Column("digest", LargeBinary, nullable=False),
    Index("events_unrouted_idx", "type", "id", postgresql_where=text("unrouted")),
)

runs = Table(
    "runs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("event_id", _ID, nullable=False),
    Column("account_id", Integer, nullable=False),
    Column("minute", Integer, nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    Column("generation", SmallInteger, nullable=False, server_default="0"),
    Column("attempt", SmallInteger, nullable=False, server_default="0"),
    Column("hand_overs", SmallInteger, nullable=False, server_default="0"),
    Column("crashes", SmallInteger, nullable=False, server_default="0"),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("alone", Boolean, nullable=False, server_default="false"),
    Column("started_at", _TIME, nullable=False),
    Column("due_at", _TIME),
    Column("claimed_at", _TIME),
    Column("settled_at", _TIME),
    Column("cancel_requested_at", _TIME),
    Column("lease_token", _ID),
    Column("delivery_id", _ID),
    Column("origin_run_id", _ID),
    Column("parent_run_id", _ID),
    Column("state", Text, nullable=False),
    Column("workflow", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("code_version", Text),
    Column("key", Text),
    Column("worker_id", Text),
    Column("created_by", Text),
    Column("reason", Text),
    Column("fingerprint", Text),
    Column("failed_step", Text),
    Column("outcome", JSON),
    Column("archived_at", _TIME),
    Column("steps", Text),  # JSON text: the journal of a run that one hand began and ended
    Column("life", SmallInteger, nullable=False, server_default="0"),  # see `life_of`
    CheckConstraint(
        "state in ('queued','running','waiting','succeeded','failed','cancelled')", name="state"
    ),
    CheckConstraint(
        "(state in ('queued','running','waiting')) = (due_at is not null)", name="open_is_due"
    ),
    # Who runs it has a token; who is about to be handed over as claimed may have one.
    CheckConstraint(
        "case state when 'running' then lease_token is not null when 'queued' then true"
        " else lease_token is null end",
        name="leased_is_open",
    ),
    CheckConstraint(
        "(state in ('succeeded','failed','cancelled')) = (settled_at is not null)", name="settled"
    ),
    Index("runs_due_idx", "queue", "due_at", postgresql_where=text("due_at is not null")),
    Index("runs_leases_idx", "due_at", postgresql_where=text("state = 'running'")),
    Index("runs_failed_idx", "workflow", "id", postgresql_where=text("state = 'failed'")),
    Index("runs_fingerprint_idx", "fingerprint", "id", postgresql_where=text("state = 'failed'")),
    Index(
        "runs_unsuccessful_idx",
        "state",
        "id",
        postgresql_where=text("state in ('failed', 'cancelled')"),
    ),
    **_HOT_TABLE,
)

# Steps a run finished, by their path in the run. Never updated, never written twice. Those of
# runs that one hand began and ended are in `runs.steps`: `journal_of` reads both.
journal = Table(
    "journal",
    metadata,
    Column("run_id", _ID, primary_key=True),
    Column("generation", SmallInteger, primary_key=True),
    Column("position", _KEY, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("arguments_digest", LargeBinary),
    Column("output", JSON),
    Column("error", JSON),
    Column("attempts", SmallInteger, nullable=False),
    Column("recorded_at", _TIME, nullable=False, server_default=_NOW),
    Column("began_at", _TIME),  # of the last attempt; NULL: a sleep or a value, or an old row
    Column("took_ms", BigInteger),
    Column("arguments", Text),  # JSON text of [positional, keywords], or the beginning of it
)

# Attempts that raised, timed out, or ended with their worker's process (`is_crash`), final or not:
# the evidence operators read.
failed_attempts = Table(
    "failed_attempts",
    metadata,
    Column(
        "id",
        BigInteger,
        server_default=text("nextval('failed_attempts_ids')"),
        primary_key=True,
    ),
    Column("run_id", _ID, nullable=False),
    Column("generation", SmallInteger, nullable=False),
    Column("position", _KEY, nullable=False),
    Column("step", Text, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("worker_id", Text),
    Column("retry_delay_s", Float),  # until the next attempt; NULL: this was the last
    Column("failed_at", _TIME, nullable=False, server_default=_NOW),
    Column("began_at", _TIME),
    Column("took_ms", BigInteger),
    Column("arguments", Text),
    Column("is_crash", Boolean, nullable=False, server_default="false"),
    Index("failed_attempts_run_id_idx", "run_id"),
)

# Which workflow is started by which event types, since when; the row made current last counts.
subscriptions = Table(
    "subscriptions",
    metadata,
    Column("workflow", _KEY, primary_key=True),
    Column("code_version", Text, primary_key=True),
    Column("types", ARRAY(Text), nullable=False),
    Column("queue", Text, nullable=False),
    Column("options", JSON, nullable=False),
    Column("input_schema", JSON),
    Column("since", _TIME, nullable=False, server_default=_NOW),
    Column("registered_at", _TIME, nullable=False, server_default=_NOW),
    Column("retired_at", _TIME),
    Column("current_at", _TIME),
    Column("replaced", Text),
    Index(
        "subscriptions_current_idx",
        "workflow",
        text("coalesce(current_at, registered_at) desc"),
        text("code_version desc"),
        postgresql_where=text("retired_at is null"),
    ),
)

# Which sets of workflow versions workers have; `held_until`: taken to be served, though by nobody.
releases = Table(
    "releases",
    metadata,
    Column("id", Text, primary_key=True),
    Column("workflows", ARRAY(Text), nullable=False),
    Column("code_versions", ARRAY(Text), nullable=False),
    Column("deployed_at", _TIME, nullable=False, server_default=_NOW),
    Column("served_at", _TIME, nullable=False, server_default=_NOW),
    Column("held_until", _TIME),
)

# What worker children last said of themselves: alive, how much they claim, how long it takes.
workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("started_at", _TIME, nullable=False, server_default=_NOW),
    Column("seen_at", _TIME, nullable=False, server_default=_NOW),
    Column("load", JSON, nullable=False),
)

# Messages that reached nobody's code: foreign, malformed, rejected, unroutable.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("message_key", Text),
    Column("queue", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text),
    Column("content_type", Text),
    Column("headers", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("run_ids", ARRAY(_ID), nullable=False),
    Column("received_at", _TIME, nullable=False, server_default=_NOW),
    Column("seen_at", _TIME),
    Column("seen_by", Text),
    Index(
        "dead_letters_message_key_idx",
        "message_key",
        unique=True,
        postgresql_where=text("message_key is not null"),
    ),
    Index("dead_letters_unseen_idx", "id", postgresql_where=text("seen_at is null")),
    Index("dead_letters_received_at_idx", "received_at"),
)

COUNTED = (
    "accepted",
    "routed",
    "unrouted",
    "started",
    "succeeded",
    "failed",
    "cancelled",
    "duplicates",
    "refused",
    "dead_letters",
)


def _counts() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False, server_default="0") for name in COUNTED]


# One appended row per statement that moved something, in its transaction. Folded by one duty.
counter_deltas = Table(
    "counter_deltas",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("account_id", Integer, nullable=False),
    Column("minute", Integer, nullable=False),
    *_counts(),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": "0.0",
        "autovacuum_vacuum_threshold": "10000",
    },
)

# What only this ledger's processes may know; `handed` signs the messages of runs handed over.
secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# The books: one row per account and minute of acceptance; `discrepancy` is |counters - rows| as
# last recounted, in one snapshot. A sealed minute agreed, had nothing open, and is in
# `counter_totals`.
counters = Table(
    "counters",
    metadata,
    Column("minute", Integer, primary_key=True),
    Column("account_id", Integer, primary_key=True),
    *_counts(),
    Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    Column("recounted_at", _TIME),
    Column("discrepancy", BigInteger, nullable=False, server_default="0"),
    Column("is_sealed", Boolean, nullable=False, server_default="false"),
    Index("counters_unsealed_idx", "minute", postgresql_where=text("not is_sealed")),
)

counter_totals = Table(
    "counter_totals",
    metadata,
    Column("account_id", Integer, primary_key=True),
    *_counts(),
)
