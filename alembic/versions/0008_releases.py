"""Which version of a workflow routes, and which sets of versions workers have."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("current_at", TIME))
    op.add_column("subscriptions", sa.Column("replaced", sa.Text))
    op.create_index(
        "subscriptions_current_idx",
        "subscriptions",
        [
            "workflow",
            sa.text("coalesce(current_at, registered_at) desc"),
            sa.text("code_version desc"),
        ],
        postgresql_where=sa.text("retired_at is null"),
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("workflows", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("code_versions", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("deployed_at", TIME, nullable=False, server_default=NOW),
        sa.Column("served_at", TIME, nullable=False, server_default=NOW),
        sa.Column("held_until", TIME),
    )


def downgrade() -> None:
    op.drop_table("releases")
    op.drop_index("subscriptions_current_idx", "subscriptions")
    op.drop_column("subscriptions", "replaced")
    op.drop_column("subscriptions", "current_at")
