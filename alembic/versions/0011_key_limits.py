"""Keys may be bound to sources, types and workflows, have a rate and a size limit, and expire.

Older code takes such a key for one without limits: upgrade all apis before the first is made.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PATTERNS = ("sources", "types", "workflows")
LIMITS = (
    ("rate", sa.Double),
    ("burst", sa.Integer),
    ("body_bytes_max", sa.Integer),
    ("expires_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    for name in PATTERNS:
        op.add_column("api_keys", sa.Column(name, sa.ARRAY(sa.Text)))
    for name, type_ in LIMITS:
        op.add_column("api_keys", sa.Column(name, type_))


def downgrade() -> None:
    for name, _ in reversed(LIMITS):
        op.drop_column("api_keys", name)
    for name in reversed(PATTERNS):
        op.drop_column("api_keys", name)
