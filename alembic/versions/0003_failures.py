"""The audit, which is only added to; a key that reads runs goes on seeing their payloads."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False)
TIME = sa.DateTime(timezone=True)

REFUSE = """
create function audit_refuse() returns trigger language plpgsql as $$
begin
    raise exception 'the audit is only added to: % is refused', tg_op
        using errcode = 'insufficient_privilege';
end
$$
"""


def upgrade() -> None:
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
    op.execute(REFUSE)
    op.execute(
        "create trigger audit_is_append_only before update or delete or truncate on audit"
        " for each statement execute function audit_refuse()"
    )
    op.execute(
        "update api_keys set scopes = scopes || 'payloads:read'::text"
        " where 'runs:read' = any(scopes) and not 'payloads:read' = any(scopes)"
    )


def downgrade() -> None:
    op.execute(
        "update api_keys set scopes = array_remove(array_remove(scopes, 'payloads:read'), 'runs:edit')"
    )
    op.drop_table("audit")
    op.execute("drop function audit_refuse()")
