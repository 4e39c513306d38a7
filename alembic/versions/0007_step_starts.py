"""When steps began and how long they took, with what arguments; attempts that ended with a crash.

Rows from before have none of it, and are shown as they were.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = ("journal", "failed_attempts")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("began_at", sa.DateTime(timezone=True)))
        op.add_column(table, sa.Column("took_ms", sa.BigInteger))
        op.add_column(table, sa.Column("arguments", sa.Text))
    op.add_column(
        "failed_attempts",
        sa.Column("is_crash", sa.Boolean, nullable=False, server_default="false"),
    )


def downgrade() -> None:
    op.drop_column("failed_attempts", "is_crash")
    for table in TABLES:
        for column in ("arguments", "took_ms", "began_at"):
            op.drop_column(table, column)
