"""Every row of the audit carries a hash of itself and of the row before it.

The trigger that numbers rows computes it, as the tables' owner: who can only insert says neither
id, nor time, nor hash. What was there before gets no hash of its own, since to rewrite a million
rows takes minutes under a lock: it is folded into the hash of the first row that gets one, read a
part at a time before any lock is taken. Older code runs on this schema.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ROWS = 20_000  # that are read by one statement
BEGIN = bytes(32)  # what the first row follows

# A length before each value, -1 for none, so that no two rows are written alike. Times are
# microseconds since 2000 and numbers are big-endian, as PostgreSQL sends them.
FIELD = """
create function {schema}.audit_field(value bytea) returns bytea
language sql immutable parallel safe
as $$
select case when value is null then pg_catalog.int4send(-1)
    else pg_catalog.int4send(pg_catalog.octet_length(value)) operator(pg_catalog.||) value end
$$
"""
# SHA-256 of the hash before, and of every column in this order.
LINK = """
create function {schema}.audit_link(previous bytea, entry {schema}.audit) returns bytea
language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return sha256(previous
        || {schema}.audit_field(int8send(entry.id))
        || {schema}.audit_field(timestamptz_send(entry.at))
        || {schema}.audit_field(convert_to(entry.author, 'UTF8'))
        || {schema}.audit_field(convert_to(entry.action, 'UTF8'))
        || {schema}.audit_field(convert_to(entry.target, 'UTF8'))
        || {schema}.audit_field(convert_to(entry.target_id, 'UTF8'))
        || {schema}.audit_field(convert_to(entry.reason, 'UTF8'))
        || {schema}.audit_field(convert_to(entry.request::text, 'UTF8'))
        || {schema}.audit_field(convert_to(entry.run_ids::text, 'UTF8'))
        || {schema}.audit_field(int4send(entry.runs))
        || {schema}.audit_field(entry.runs_digest)
        || {schema}.audit_field(convert_to(entry.result::text, 'UTF8'))
        || {schema}.audit_field(boolsend(entry.is_refused)));
end
$$
"""
# A row that names 100,000 runs takes 0.1 s or more, so a statement ends well within its time.
FOLD = """
create function {schema}.audit_fold(
    inout hash bytea, inout last bigint, rows_max int, out looked_at int)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    entry {schema}.audit;
    limit_s constant interval := current_setting('statement_timeout')::interval / 4;
begin
    looked_at := 0;
    for entry in select * from {schema}.audit where id > last order by id limit rows_max loop
        hash := {schema}.audit_link(hash, entry);
        last := entry.id;
        looked_at := looked_at + 1;
        exit when limit_s > '0' and clock_timestamp() - statement_timestamp() > limit_s;
    end loop;
end
$$
"""
# Who writes waits for who wrote before until that one has committed. Temporary tables, which
# anybody may make, are looked for last.
NUMBER = """
create or replace function {schema}.audit_number() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    previous bytea;
    place tid;
begin
    select last + 1, hash, ctid into new.id, previous, place
    from {schema}.audit_numbers for no key update;
    new.at := clock_timestamp();
    new.hash := {schema}.audit_link(previous, new);
    -- By its place: one look for the newest version, of which a large list leaves as many as rows.
    update {schema}.audit_numbers set last = new.id, hash = new.hash where ctid = place;
    return new;
end
$$
"""
NUMBER_BEFORE = """
create or replace function {schema}.audit_number() returns trigger
language plpgsql security invoker set search_path from current
as $$
begin
    update audit_numbers set last = last + 1 returning last into new.id;
    return new;
end
$$
"""


def upgrade() -> None:
    schema = _schema()
    for statement in (FIELD, LINK, FOLD):
        op.execute(statement.format(schema=schema))
    found = _fold(schema, BEGIN, -(2**63))
    op.execute("lock table audit in access exclusive mode")
    last_hash, _ = _fold(schema, *found)
    op.execute(f"drop function {schema}.audit_fold(bytea, bigint, int)")
    op.add_column("audit", sa.Column("hash", sa.LargeBinary))
    op.add_column("audit_numbers", sa.Column("hash", sa.LargeBinary))
    op.get_bind().execute(sa.text("update audit_numbers set hash = :hash"), {"hash": last_hash})
    op.alter_column("audit_numbers", "hash", nullable=False)
    op.execute(NUMBER.format(schema=schema))
    # Nobody makes it a trigger of a table of his own, and takes numbers by that.
    op.execute(f"revoke execute on function {schema}.audit_number() from public")
    op.execute("alter table audit enable always trigger audit_is_append_only")


def _schema() -> str:
    found = op.get_bind().scalar(sa.text("select quote_ident(current_schema())"))
    assert found is not None
    return str(found)


def _fold(schema: str, last_hash: bytes, last: int) -> tuple[bytes, int]:
    """The hash that the rows beyond `last` lead to from this one, and the last of them."""
    statement = sa.text(
        f"select hash, last, looked_at from {schema}.audit_fold(:hash, :last, :rows)"  # noqa: S608
    )
    while True:
        given = {"hash": last_hash, "last": last, "rows": ROWS}
        last_hash, last, looked_at = op.get_bind().execute(statement, given).one()
        if looked_at == 0:
            return bytes(last_hash), last


def downgrade() -> None:
    schema = _schema()
    op.execute("alter table audit enable trigger audit_is_append_only")
    op.execute(NUMBER_BEFORE.format(schema=schema))
    op.execute(f"grant execute on function {schema}.audit_number() to public")
    op.drop_column("audit_numbers", "hash")
    op.execute(f"drop function {schema}.audit_link(bytea, {schema}.audit)")
    op.execute(f"drop function {schema}.audit_field(bytea)")
    op.drop_column("audit", "hash")
