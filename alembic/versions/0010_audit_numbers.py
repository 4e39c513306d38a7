"""Ids of the audit without gaps: a sequence leaves some when the server crashes or rolls back.

The trigger numbers what older code writes as well. Who writes waits for who wrote before until that
one has committed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

NUMBER = """
create function audit_number() returns trigger language plpgsql set search_path from current as $$
begin
    update audit_numbers set last = last + 1 returning last into new.id;
    return new;
end
$$
"""


def upgrade() -> None:
    op.create_table("audit_numbers", sa.Column("last", sa.BigInteger, nullable=False))
    op.execute("lock table audit in share row exclusive mode")
    op.execute("insert into audit_numbers select coalesce(max(id), 0) from audit")
    op.execute(NUMBER)
    op.execute(
        "create trigger audit_is_numbered before insert on audit"
        " for each row execute function audit_number()"
    )


def downgrade() -> None:
    op.execute("drop trigger audit_is_numbered on audit")
    op.execute("drop function audit_number()")
    op.execute(
        "select setval(pg_get_serial_sequence('audit', 'id'), greatest(1, max(last)))"
        " from audit_numbers"
    )
    op.drop_table("audit_numbers")
