"""Which accounts have a failure group of their own for their unrouted events."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("accounts", sa.Column("has_unrouted_group", sa.Boolean))
    op.create_index(
        "accounts_unrouted_group_idx",
        "accounts",
        ["id"],
        postgresql_where=sa.text("has_unrouted_group"),
    )


def downgrade() -> None:
    op.drop_index("accounts_unrouted_group_idx", "accounts")
    op.drop_column("accounts", "has_unrouted_group")
