"""The constraint on tokens is checked, while everybody goes on."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

NOW, BEFORE = "runs_leased_is_open_check", "runs_running_is_leased_check"


def upgrade() -> None:
    op.execute(f"alter table runs validate constraint {NOW}")


def downgrade() -> None:
    """The one before is checked when it is there again: see 0014."""
