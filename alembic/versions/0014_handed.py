"""A queued run may carry a token: it is handed over as claimed. Messages of it are signed.

The constraint is replaced without reading a row: what the old one let in the new one lets in too.
Older code claims such runs as any other.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BEFORE, NOW = "runs_running_is_leased_check", "runs_leased_is_open_check"


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.execute(
        "insert into secrets (name, value) values ('handed',"
        " sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())))"
    )
    op.execute(
        f"alter table runs add constraint {NOW} check (case state when 'running' then"
        " lease_token is not null when 'queued' then true else lease_token is null end) not valid"
    )
    op.execute(f"alter table runs drop constraint {BEFORE}")


def downgrade() -> None:
    op.execute(
        "update runs set lease_token = null where state = 'queued' and lease_token is not null"
    )
    op.execute(
        f"alter table runs add constraint {BEFORE}"
        " check ((state = 'running') = (lease_token is not null)) not valid"
    )
    op.execute(f"alter table runs drop constraint {NOW}")
    op.drop_table("secrets")
