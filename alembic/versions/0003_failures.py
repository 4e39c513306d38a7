"""Failure groups, archived runs, and the audit, which is only added to.

A key that reads runs goes on seeing their payloads, which now is a scope of its own. The groups of
what failed before are counted from rows by the relay.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False)
TIME = sa.DateTime(timezone=True)
NOW = sa.text("now()")

REFUSE = """
create function audit_refuse() returns trigger language plpgsql as $$
begin
    raise exception 'the audit is only added to: % is refused', tg_op
        using errcode = 'insufficient_privilege';
end
$$
"""


def upgrade() -> None:
    op.add_column("runs", sa.Column("archived_at", TIME))
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("at", TIME, nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("target_id", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("run_ids", sa.ARRAY(ID), nullable=False),
        sa.Column("runs", sa.Integer, nullable=False),
        sa.Column("runs_digest", sa.LargeBinary),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("is_refused", sa.Boolean, nullable=False),
    )
    op.create_index("audit_at_id_idx", "audit", ["at", "id"])
    _make_groups()
    op.execute(REFUSE)
    op.execute(
        "create trigger audit_is_append_only before update or delete or truncate on audit"
        " for each statement execute function audit_refuse()"
    )
    op.execute(
        "update api_keys set scopes = scopes || 'payloads:read'::text"
        " where 'runs:read' = any(scopes) and not 'payloads:read' = any(scopes)"
    )


def _make_groups() -> None:
    op.create_table(
        "failure_groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="open"),
        sa.Column("workflow", sa.Text),
        sa.Column("step", sa.Text),
        sa.Column("type", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("queue", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("event_type", sa.Text),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("archived", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("first_seen_at", TIME, nullable=False),
        sa.Column("last_seen_at", TIME, nullable=False),
        sa.Column("resolved_version", sa.Text),
        sa.Column("state_changed_at", TIME, nullable=False, server_default=NOW),
        sa.Column("state_changed_by", sa.Text),
        sa.Column("state_reason", sa.Text),
        sa.CheckConstraint(
            "kind in ('run','poison','dead_letter','unroutable','unrouted')",
            name=op.f("failure_groups_kind_check"),
        ),
        sa.CheckConstraint(
            "state in ('open','resolved','ignored','regressed')",
            name=op.f("failure_groups_state_check"),
        ),
    )
    for column in ("last_seen_at", "first_seen_at", "count"):
        op.create_index(f"failure_groups_{column}_idx", "failure_groups", [column, "id"])
    op.create_table(
        "failure_deltas",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("archived", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("seen", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("seen_at", TIME, nullable=False, server_default=NOW),
        sa.Column("run_id", ID),
        sa.Column("workflow", sa.Text),
        sa.Column("step", sa.Text),
        sa.Column("code_version", sa.Text),
        sa.Column("queue", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("event_type", sa.Text),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0.0",
            "autovacuum_vacuum_threshold": "10000",
        },
    )
    op.create_index("failure_deltas_group_id_idx", "failure_deltas", ["group_id"])
    op.create_table(
        "failure_hours",
        sa.Column("group_id", sa.Text, primary_key=True),
        sa.Column("hour", TIME, primary_key=True),
        sa.Column("code_version", sa.Text, primary_key=True),
        sa.Column("seen", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "failure_notes",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("written_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_index("failure_notes_group_id_idx", "failure_notes", ["group_id"])


def downgrade() -> None:
    op.drop_column("runs", "archived_at")
    op.execute(
        "update api_keys set"
        " scopes = array_remove(array_remove(scopes, 'payloads:read'), 'runs:edit')"
    )
    for table in ("failure_notes", "failure_hours", "failure_deltas", "failure_groups", "audit"):
        op.drop_table(table)
    op.execute("drop function audit_refuse()")
