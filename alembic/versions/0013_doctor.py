"""What the doctor's watch sees, and the canary events that it sends.

Canaries are events and runs as all others, in an account that is in no book. No role of the
platform may delete events; a function of the owner's deletes canaries that have ended: of the
journal, which no role may change, only what a canary's step writes. Older code runs on this schema,
and has never heard of a canary: its apis take one for an event that nobody subscribes to.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
# -2 is the canaries' account, and nobody else may use their source.
FORGET = """
create function {schema}.forget_canaries(kept interval, most int) returns bigint
language sql security definer set search_path = pg_catalog, pg_temp
as $$
with old as (
    select id, event_id from {schema}.canaries
    where ending is not null and sent_at < now() - greatest(kept, interval '0')
    order by sent_at limit least(most, 1000)
), gone_events as (
    delete from {schema}.events e using old where e.id = old.event_id and e.account_id = -2
    returning e.id
), gone_runs as (
    delete from {schema}.runs r using gone_events e
    where r.id > e.id and r.id <= (left(e.id::text, 30) || 'ffffff')::uuid and r.account_id = -2
        and r.settled_at is not null
    returning r.id
), gone_journal as (
    delete from {schema}.journal j using gone_runs r
    where j.run_id = r.id and j.name = 'veltrix.canary.sing'
), gone_attempts as (
    delete from {schema}.failed_attempts f using gone_runs r where f.run_id = r.id
), gone_identities as (
    delete from {schema}.identities i using old
    where i.source = '/veltrix/canary' and i.sender_id = old.id
), gone as (
    delete from {schema}.canaries c using old where c.id = old.id returning 1
)
select count(*) from gone
$$
"""

# Who may change rows of events and runs makes no canary of one, nor anything else of a canary.
KEEP = """
create function {schema}.canary_keeps() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'an event does not become a canary, nor a canary an event';
end
$$
"""
GUARD = """
create trigger {table}_canary_keeps before update of account_id on {schema}.{table}
for each row when (old.account_id is distinct from new.account_id
    and (old.account_id = -2 or new.account_id = -2))
execute function {schema}.canary_keeps()
"""
GUARDED = ("events", "runs")


def upgrade() -> None:
    op.create_table(
        "doctor_looks",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("watcher", sa.Text, nullable=False),
        sa.Column("looked_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("took_ms", sa.Integer, nullable=False),
        sa.Column("held", sa.Integer, nullable=False),
        sa.Column("not_checked", sa.JSON, nullable=False),
        sa.CheckConstraint("id = 1", name="one"),
    )
    op.create_table(
        "doctor_findings",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("finding", sa.JSON, nullable=False),
        sa.Column("appeared_at", TIME, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("gone_at", TIME),
        sa.Column("told_at", TIME),
        sa.Column("gone_told_at", TIME),
    )
    op.create_table(
        "canaries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("api", sa.Text, nullable=False),
        sa.Column("sent_at", TIME, nullable=False),
        sa.Column("event_id", sa.Uuid(as_uuid=False)),
        sa.Column("ending", sa.Text),
        sa.Column("ended_at", TIME),
        sa.Column("took_ms", sa.BigInteger),
        sa.CheckConstraint("ending in ('out', 'late', 'lost')", name="ending"),
        sa.CheckConstraint("(ending is null) = (ended_at is null)", name="ended"),
    )
    op.create_index(
        "canaries_way_idx", "canaries", ["sent_at"], postgresql_where=sa.text("ending is null")
    )
    op.create_index("canaries_ended_idx", "canaries", ["sent_at"])
    schema = op.get_bind().scalar(sa.text("select quote_ident(current_schema())"))
    op.execute(FORGET.format(schema=schema))
    op.execute(f"revoke execute on function {schema}.forget_canaries(interval, int) from public")
    op.execute(KEEP.format(schema=schema))
    for table in GUARDED:
        op.execute(GUARD.format(schema=schema, table=table))


def downgrade() -> None:
    schema = op.get_bind().scalar(sa.text("select quote_ident(current_schema())"))
    for table in GUARDED:
        op.execute(f"drop trigger {table}_canary_keeps on {schema}.{table}")
    op.execute(f"drop function {schema}.canary_keeps()")
    op.execute(f"drop function {schema}.forget_canaries(interval, int)")
    for table in ("canaries", "doctor_findings", "doctor_looks"):
        op.drop_table(table)
