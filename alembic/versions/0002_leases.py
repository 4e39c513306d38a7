"""An index of the leases, so that those that ended are found whatever else is due."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "runs_leases_idx", "runs", ["due_at"], postgresql_where=sa.text("state = 'running'")
    )


def downgrade() -> None:
    op.drop_index("runs_leases_idx", "runs")
