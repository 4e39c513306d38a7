"""For how long history is kept. Nothing is dropped before somebody has applied a policy.

Older code runs on this schema: it keeps everything.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

KEY = sa.Text(collation="C")


def upgrade() -> None:
    op.create_table(
        "retention_policies",
        sa.Column("workflow", KEY, primary_key=True),
        sa.Column("outcome", KEY, primary_key=True),
        sa.Column("content_s", sa.BigInteger),
        sa.Column("lines_s", sa.BigInteger),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column(
            "changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        sa.CheckConstraint(
            "outcome in ('succeeded','cancelled','failed')"
            " or outcome = 'unrouted' and workflow = ''",
            name="outcome",
        ),
        sa.CheckConstraint("content_s > 0 and lines_s >= coalesce(content_s, 1)", name="seconds"),
    )


def downgrade() -> None:
    op.drop_table("retention_policies")
