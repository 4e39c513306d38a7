"""What one hand began and ended of a run is kept in its row.

Adding the column writes no row. Older code does not see steps of runs that newer workers settled.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INTO_ROWS = """
insert into journal (run_id, generation, position, kind, name, arguments_digest, output, error,
    attempts, recorded_at, began_at, took_ms, arguments)
select r.id, r.generation, e ->> 0, e ->> 1, e ->> 2, decode(e ->> 3, 'hex'),
    e -> 4, null, (e ->> 5)::smallint, r.settled_at,
    r.settled_at - (e ->> 6)::bigint * interval '1 ms', (e ->> 7)::bigint, e ->> 8
from runs r cross join lateral json_array_elements(r.steps::json) as e
where r.steps is not null
"""


def upgrade() -> None:
    op.add_column("runs", sa.Column("steps", sa.Text))


def downgrade() -> None:
    op.execute(INTO_ROWS)
    op.drop_column("runs", "steps")
