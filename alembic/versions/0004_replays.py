"""Replays as rows, the runs of each, and the edits that made new runs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.Uuid(as_uuid=False)
TIME = sa.DateTime(timezone=True)
NOW = sa.text("now()")
COUNTS = ("planned", "replayed", "succeeded", "failed_again", "cancelled", "skipped")
OPEN = "replayed > succeeded + failed_again + cancelled"


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def upgrade() -> None:
    op.create_table(
        "replays",
        sa.Column("id", ID, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("resumes_as", sa.Text),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("rate", sa.Float, nullable=False),
        sa.Column("canary", sa.Integer, nullable=False),
        sa.Column("canary_to", sa.Integer, nullable=False),
        sa.Column("stop_share", sa.Float),
        sa.Column("patch", sa.JSON),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("summary", sa.JSON),
        *(_count(name) for name in COUNTS),
        _count("judged_succeeded"),
        _count("judged_failed_again"),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("planned_at", TIME, nullable=False, server_default=NOW),
        sa.Column("started_by", sa.Text),
        sa.Column("start_reason", sa.Text),
        sa.Column("started_at", TIME),
        sa.Column("paced_at", TIME),
        sa.Column("changed_at", TIME, nullable=False, server_default=NOW),
        sa.Column("changed_by", sa.Text),
        sa.Column("why", sa.Text),
        sa.Column("ended_at", TIME),
        sa.CheckConstraint(
            "state in ('planned','canary','running','paused','stopped','aborted','done')",
            name=op.f("replays_state_check"),
        ),
        sa.CheckConstraint(
            "(state in ('aborted','done')) = (ended_at is not null)",
            name=op.f("replays_ended_check"),
        ),
        sa.CheckConstraint(
            "replayed + skipped <= planned and succeeded + failed_again + cancelled <= replayed",
            name=op.f("replays_counts_check"),
        ),
    )
    op.create_index(
        "replays_at_work_idx",
        "replays",
        ["id"],
        postgresql_where=sa.text(f"state in ('canary', 'running') or {OPEN}"),
    )
    op.create_table(
        "replay_runs",
        sa.Column("replay_id", ID, primary_key=True),
        sa.Column("run_id", ID, primary_key=True),
        sa.Column("generation", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="planned"),
        sa.Column("moved_generation", sa.SmallInteger),
        sa.Column("new_run_id", ID),
        sa.Column("skip_reason", sa.Text),
        sa.Column("moved_at", TIME),
        sa.Column("settled_at", TIME),
        sa.CheckConstraint(
            "state in ('planned','replayed','succeeded','failed_again','cancelled','skipped')",
            name=op.f("replay_runs_state_check"),
        ),
        sa.CheckConstraint(
            "(state in ('planned','skipped')) = (moved_generation is null)",
            name=op.f("replay_runs_moved_check"),
        ),
        sa.CheckConstraint(
            "(state = 'skipped') = (skip_reason is not null)",
            name=op.f("replay_runs_skipped_check"),
        ),
    )
    op.create_index(
        "replay_runs_left_idx",
        "replay_runs",
        ["replay_id", "run_id"],
        postgresql_where=sa.text("state = 'planned'"),
    )
    op.create_index(
        "replay_runs_open_idx",
        "replay_runs",
        ["replay_id", "run_id"],
        postgresql_where=sa.text("state = 'replayed'"),
    )
    op.create_index("replay_runs_run_id_idx", "replay_runs", ["run_id"])
    op.create_table(
        "edits",
        sa.Column("run_id", ID, primary_key=True),
        sa.Column("origin_run_id", ID, nullable=False),
        sa.Column("origin_generation", sa.SmallInteger, nullable=False),
        sa.Column("replay_id", ID, nullable=False),
        sa.Column("patch", sa.JSON, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("edited_at", TIME, nullable=False, server_default=NOW),
    )
    op.create_index("edits_origin_run_id_idx", "edits", ["origin_run_id"])


def downgrade() -> None:
    op.drop_table("edits")
    op.drop_table("replay_runs")
    op.drop_table("replays")
