"""The books of what was dropped, and the ledger's own id.

Both tables are new. Older code recounts minutes without `dropped`: nothing may be dropped while it
runs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

COUNTS = (
    "accepted",
    "routed",
    "unrouted",
    "started",
    "succeeded",
    "failed",
    "cancelled",
    "dead_letters",
)


def upgrade() -> None:
    op.create_table("ledger", sa.Column("id", sa.Uuid(as_uuid=False), primary_key=True))
    op.execute("insert into ledger (id) values (gen_random_uuid())")
    op.create_table(
        "dropped",
        sa.Column("minute", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("account_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("drop_id", sa.Uuid(as_uuid=False), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in COUNTS),
        sa.Column("digest", sa.LargeBinary),
        sa.CheckConstraint("accepted = routed + unrouted", name="events"),
        sa.CheckConstraint("started = succeeded + failed + cancelled", name="nothing_open"),
    )


def downgrade() -> None:
    op.drop_table("dropped")
    op.drop_table("ledger")
