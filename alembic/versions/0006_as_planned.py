"""What a run was when it was planned: how often edited, whether archived."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replay_runs", sa.Column("edits", sa.Integer, nullable=False, server_default="0"))
    op.add_column(
        "replay_runs", sa.Column("is_archived", sa.Boolean, nullable=False, server_default="false")
    )


def downgrade() -> None:
    op.drop_column("replay_runs", "is_archived")
    op.drop_column("replay_runs", "edits")
