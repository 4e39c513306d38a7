"""Drops of history: how far each is, what was touched meanwhile, and the lines that are left.

`retention_drops` says of each drop what is done, so that whoever dies in it goes on. The trigger
function notes events that change while a day is made ready to leave.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False)
TIME = sa.DateTime(timezone=True)
KEY = sa.Text(collation="C")
STATES = "'copying', 'swapped', 'counted', 'archived', 'lined', 'freed'"
TOUCHED = """
create function {schema}.note_touched() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare touched jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
begin
    insert into {schema}.retention_touched (event_id)
    values ((left(touched ->> tg_argv[0], 30) || '000000')::uuid);
    return null;
end
$$
"""


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("select quote_ident(current_schema())"))
    op.create_table(
        "retention_drops",
        sa.Column("id", ID, primary_key=True),
        sa.Column("part", sa.Text, nullable=False),
        sa.Column("first_id", ID, nullable=False),
        sa.Column("end_id", ID, nullable=False),
        sa.Column("first_minute", sa.Integer, nullable=False),
        sa.Column("end_minute", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("archive", sa.Text),
        sa.Column("events_left", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("events_kept", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("began_at", TIME, nullable=False, server_default=sa.text("now()")),
        sa.Column("changed_at", TIME, nullable=False, server_default=sa.text("now()")),
        sa.Column("identities_forgotten_at", TIME),
        sa.CheckConstraint(f"state in ({STATES})", name="state"),
    )
    op.create_index(
        "retention_drops_unfinished_idx",
        "retention_drops",
        [sa.text("(true)")],
        unique=True,
        postgresql_where=sa.text("state <> 'freed'"),
    )
    op.create_table("retention_touched", sa.Column("event_id", ID, nullable=False))
    op.create_table(
        "ledger_lines",
        sa.Column("event_id", ID, nullable=False),
        sa.Column("run_id", ID),
        sa.Column("account_id", sa.Integer, nullable=False),
        sa.Column("sender_id", KEY, nullable=False),
        sa.Column("accepted_at", TIME, nullable=False),
        sa.Column("workflow", sa.Text),
        sa.Column("state", sa.Text),
        sa.Column("settled_at", TIME),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        postgresql_partition_by="RANGE (event_id)",
    )
    op.create_index("ledger_lines_event_id_idx", "ledger_lines", ["event_id"])
    op.get_bind().exec_driver_sql(
        TOUCHED.format(schema=schema), execution_options={"no_parameters": True}
    )


def downgrade() -> None:
    schema = op.get_bind().scalar(sa.text("select quote_ident(current_schema())"))
    op.execute(f"drop function {schema}.note_touched() cascade")
    for table in ("ledger_lines", "retention_touched", "retention_drops"):
        op.drop_table(table)
