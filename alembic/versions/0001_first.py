"""The first tables: exactly what app/veltrix/store/tables.py said at the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False)
TIME = sa.DateTime(timezone=True)
KEY = sa.Text(collation="C")
NOW = sa.text("now()")
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


def _counts() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTED]


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("source", KEY, nullable=False),
        sa.Column("type", KEY, nullable=False),
    )
    op.create_index("accounts_source_type_idx", "accounts", ["source", "type"], unique=True)
    op.create_table(
        "identities",
        sa.Column("source", KEY, primary_key=True),
        sa.Column("sender_id", KEY, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("event_id", ID, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("id", ID, primary_key=True),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("minute", sa.Integer, nullable=False),
        sa.Column("unrouted", sa.Boolean, nullable=False),
        sa.Column("accepted_at", TIME, nullable=False),
        sa.Column("source", KEY, nullable=False),
        sa.Column("sender_id", KEY, nullable=False),
        sa.Column("type", KEY, nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("time", sa.Text),
        sa.Column("datacontenttype", sa.Text),
        sa.Column("dataschema", sa.Text),
        sa.Column("data", sa.JSON),
        sa.Column("data_binary", sa.LargeBinary),
        sa.Column("extensions", sa.JSON),
        sa.Column("traceparent", sa.Text),
        sa.Column("digest", sa.LargeBinary, nullable=False),
    )
    op.create_index(
        "events_unrouted_idx", "events", ["type", "id"], postgresql_where=sa.text("unrouted")
    )
    op.create_table(
        "runs",
        sa.Column("id", ID, primary_key=True),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("minute", sa.Integer, nullable=False),
        sa.Column("payload_bytes", sa.Integer, nullable=False),
        sa.Column("generation", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("attempt", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("hand_overs", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("crashes", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("alone", sa.Boolean, nullable=False, server_default="false"),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("claimed_at", TIME),
        sa.Column("settled_at", TIME),
        sa.Column("cancel_requested_at", TIME),
        sa.Column("lease_token", ID),
        sa.Column("delivery_id", ID),
        sa.Column("origin_run_id", ID),
        sa.Column("parent_run_id", ID),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("workflow", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("code_version", sa.Text),
        sa.Column("key", sa.Text),
        sa.Column("worker_id", sa.Text),
        sa.Column("created_by", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("fingerprint", sa.Text),
        sa.Column("failed_step", sa.Text),
        sa.Column("outcome", sa.JSON),
        sa.CheckConstraint(
            "state in ('queued','running','waiting','succeeded','failed','cancelled')",
            name=op.f("runs_state_check"),
        ),
        sa.CheckConstraint(
            "(state in ('queued','running','waiting')) = (due_at is not null)",
            name=op.f("runs_open_is_due_check"),
        ),
        sa.CheckConstraint(
            "(state = 'running') = (lease_token is not null)",
            name=op.f("runs_running_is_leased_check"),
        ),
        sa.CheckConstraint(
            "(state in ('succeeded','failed','cancelled')) = (settled_at is not null)",
            name=op.f("runs_settled_check"),
        ),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0.0",
            "autovacuum_vacuum_threshold": "50000",
            "autovacuum_vacuum_insert_scale_factor": "0.0",
            "autovacuum_vacuum_insert_threshold": "1000000",
            "autovacuum_analyze_scale_factor": "0.0",
            "autovacuum_analyze_threshold": "500000",
        },
    )
    op.create_index(
        "runs_due_idx", "runs", ["queue", "due_at"], postgresql_where=sa.text("due_at is not null")
    )
    op.create_index(
        "runs_failed_idx", "runs", ["workflow", "id"], postgresql_where=sa.text("state = 'failed'")
    )
    op.create_index(
        "runs_fingerprint_idx",
        "runs",
        ["fingerprint", "id"],
        postgresql_where=sa.text("state = 'failed'"),
    )
    op.create_index(
        "runs_unsuccessful_idx",
        "runs",
        ["state", "id"],
        postgresql_where=sa.text("state in ('failed', 'cancelled')"),
    )
    op.create_table(
        "journal",
        sa.Column("run_id", ID, primary_key=True),
        sa.Column("generation", sa.SmallInteger, primary_key=True),
        sa.Column("position", KEY, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("arguments_digest", sa.LargeBinary),
        sa.Column("output", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_table(
        "failed_attempts",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("generation", sa.SmallInteger, nullable=False),
        sa.Column("position", KEY, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("attempt", sa.SmallInteger, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("traceback", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("worker_id", sa.Text),
        sa.Column("retry_delay_s", sa.Float),
        sa.Column("failed_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_index("failed_attempts_run_id_idx", "failed_attempts", ["run_id"])
    op.create_table(
        "subscriptions",
        sa.Column("workflow", KEY, primary_key=True),
        sa.Column("code_version", sa.Text, primary_key=True),
        sa.Column("types", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("input_schema", sa.JSON),
        sa.Column("since", TIME, nullable=False, server_default=NOW),
        sa.Column("registered_at", TIME, nullable=False, server_default=NOW),
        sa.Column("retired_at", TIME),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False, server_default=NOW),
        sa.Column("seen_at", TIME, nullable=False, server_default=NOW),
        sa.Column("load", sa.JSON, nullable=False),
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("message_key", sa.Text),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("content_type", sa.Text),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("run_ids", sa.ARRAY(ID), nullable=False),
        sa.Column("received_at", TIME, nullable=False, server_default=NOW),
        sa.Column("seen_at", TIME),
        sa.Column("seen_by", sa.Text),
    )
    op.create_index(
        "dead_letters_message_key_idx",
        "dead_letters",
        ["message_key"],
        unique=True,
        postgresql_where=sa.text("message_key is not null"),
    )
    op.create_index("dead_letters_received_at_idx", "dead_letters", ["received_at"])
    op.create_index(
        "dead_letters_unseen_idx",
        "dead_letters",
        ["id"],
        postgresql_where=sa.text("seen_at is null"),
    )
    op.create_table(
        "counter_deltas",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("minute", sa.Integer, nullable=False),
        *_counts(),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0.0",
            "autovacuum_vacuum_threshold": "10000",
        },
    )
    op.create_table(
        "counters",
        sa.Column("minute", sa.Integer, primary_key=True),
        sa.Column("account_id", sa.Integer, primary_key=True),
        *_counts(),
        sa.Column("changed_at", TIME, nullable=False, server_default=NOW),
        sa.Column("recounted_at", TIME),
        sa.Column("discrepancy", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("is_sealed", sa.Boolean, nullable=False, server_default="false"),
    )
    op.create_index(
        "counters_unsealed_idx", "counters", ["minute"], postgresql_where=sa.text("not is_sealed")
    )
    op.create_table(
        "counter_totals",
        sa.Column("account_id", sa.Integer, primary_key=True),
        *_counts(),
    )
    op.create_table(
        "api_keys",
        sa.Column("name", KEY, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=NOW),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("revoked_at", TIME),
    )
    op.create_index("api_keys_hash_idx", "api_keys", ["hash"], unique=True)
    op.create_table(
        "actions",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("run_id", ID, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("generation", sa.SmallInteger, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("acted_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_index("actions_run_id_idx", "actions", ["run_id"])
    op.create_table(
        "answers",
        sa.Column("author", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.SmallInteger),
        sa.Column("body", sa.JSON),
        sa.Column("asked_at", TIME, nullable=False, server_default=NOW),
    )


def downgrade() -> None:
    op.drop_table("answers")
    op.drop_table("actions")
    op.drop_table("api_keys")
    op.drop_table("counter_totals")
    op.drop_table("counters")
    op.drop_table("counter_deltas")
    op.drop_table("dead_letters")
    op.drop_table("workers")
    op.drop_table("subscriptions")
    op.drop_table("failed_attempts")
    op.drop_table("journal")
    op.drop_table("runs")
    op.drop_table("events")
    op.drop_table("identities")
    op.drop_table("accounts")
