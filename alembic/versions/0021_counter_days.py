"""The books of minutes of which nothing is left, by day.

A new table. Older code does not fold into it, and misses nothing: totals are kept beside it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

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


def upgrade() -> None:
    op.create_table(
        "counter_days",
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("account_id", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTED),
    )


def downgrade() -> None:
    op.drop_table("counter_days")
