"""The tables of replays and edits; beside `tables.py`, whose metadata they belong to."""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from veltrix.store.tables import metadata

COUNTS = ("planned", "replayed", "succeeded", "failed_again", "cancelled", "skipped")

_ID = Uuid(as_uuid=False)
_TIME = DateTime(timezone=True)
_NOW = text("now()")
_AT_WORK = "state in ('canary', 'running') or replayed > succeeded + failed_again + cancelled"


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


# A replay: what was asked, the effect foreseen (`summary`), how far it is. Who moves its runs locks
# its row, so that a pause, when it answers, has stopped everything. `paced_at`: until when the rate
# is used up. `judged_*`: outcomes that a resume took out of the share.
replays = Table(
    "replays",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("state", Text, nullable=False),
    Column("resumes_as", Text),
    Column("mode", Text, nullable=False),
    Column("rate", Float, nullable=False),
    Column("canary", Integer, nullable=False),
    Column("canary_to", Integer, nullable=False),
    Column("stop_share", Float),
    Column("patch", JSON),
    Column("asked", JSON, nullable=False),
    Column("summary", JSON),
    *(_count(name) for name in COUNTS),
    _count("judged_succeeded"),
    _count("judged_failed_again"),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("planned_at", _TIME, nullable=False, server_default=_NOW),
    Column("started_by", Text),
    Column("start_reason", Text),
    Column("started_at", _TIME),
    Column("paced_at", _TIME),
    Column("changed_at", _TIME, nullable=False, server_default=_NOW),
    Column("changed_by", Text),
    Column("why", Text),
    Column("ended_at", _TIME),
    CheckConstraint(
        "state in ('planned','canary','running','paused','stopped','aborted','done')", name="state"
    ),
    CheckConstraint("(state in ('aborted','done')) = (ended_at is not null)", name="ended"),
    CheckConstraint(
        "replayed + skipped <= planned and succeeded + failed_again + cancelled <= replayed",
        name="counts",
    ),
    Index("replays_at_work_idx", "id", postgresql_where=text(_AT_WORK)),
)

# The frozen set of a replay, each run as it was when it was planned (generation, how often edited,
# whether archived), and what became of it: the generation or, of an edited one, the new run that it
# was replayed as.
replay_runs = Table(
    "replay_runs",
    metadata,
    Column("replay_id", _ID, primary_key=True),
    Column("run_id", _ID, primary_key=True),
    Column("generation", SmallInteger, nullable=False),
    Column("state", Text, nullable=False, server_default="planned"),
    Column("moved_generation", SmallInteger),
    Column("new_run_id", _ID),
    Column("skip_reason", Text),
    Column("moved_at", _TIME),
    Column("settled_at", _TIME),
    Column("edits", Integer, nullable=False, server_default="0"),
    Column("is_archived", Boolean, nullable=False, server_default="false"),
    CheckConstraint(
        "state in ('planned','replayed','succeeded','failed_again','cancelled','skipped')",
        name="state",
    ),
    CheckConstraint("(state in ('planned','skipped')) = (moved_generation is null)", name="moved"),
    CheckConstraint("(state = 'skipped') = (skip_reason is not null)", name="skipped"),
    Index(
        "replay_runs_left_idx", "replay_id", "run_id", postgresql_where=text("state = 'planned'")
    ),
    Index(
        "replay_runs_open_idx", "replay_id", "run_id", postgresql_where=text("state = 'replayed'")
    ),
    Index("replay_runs_run_id_idx", "run_id"),
)

# Runs made by editing a failed run: the patch leads from the origin's payload to theirs.
edits = Table(
    "edits",
    metadata,
    Column("run_id", _ID, primary_key=True),
    Column("origin_run_id", _ID, nullable=False),
    Column("origin_generation", SmallInteger, nullable=False),
    Column("replay_id", _ID, nullable=False),
    Column("patch", JSON, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("edited_at", _TIME, nullable=False, server_default=_NOW),
    Index("edits_origin_run_id_idx", "origin_run_id"),
)
