"""A part of the split ledger leaves as a drop takes it: detached, noted, archived, some of it kept.

What stays goes back into its table; what is archived is what is left of the detached tables.
"""

from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, text

from tests.archive.history import add_day, day_ago
from tests.support.settled import fold_all, settle
from veltrix.archive.verify import verify_archive
from veltrix.archive.write import write_part
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import Balance, balance, recount_once
from veltrix.operations.replays.move import replay
from veltrix.store.history.dropped_rows import Relations, bounds_of, note_dropped
from veltrix.store.transactions import open_autocommit, transaction

DAY = day_ago(1)
# An event stays while one of its runs is not in the part that leaves, or nobody started it.
STAYS = {
    "events": "id in (select event_id from runs) or unrouted",
    "runs_ended": "event_id in (select event_id from runs)",
    "journal": "run_id in (select id from runs)",
    "failed_attempts": "run_id in (select id from runs)",
}


def left(table: str, key: str, whole: str) -> str:
    return (
        f"(select * from {table}_first f where not exists"
        f" (select from {whole} t where t.{key} = f.{key}))"
    )


LEFT = Relations(
    left("events", "id", "events"),
    left("runs_ended", "id", "runs"),
    left("journal", "run_id", "journal"),
    left("failed_attempts", "run_id", "failed_attempts"),
)


def opened(engine: Engine) -> Balance:
    """The balance after each minute was recounted, the sealed ones too."""
    fold_all(engine)
    with transaction(engine) as tx:
        tx.execute(text("update counters set recounted_at = null, is_sealed = false"))
        tx.execute(text("delete from counter_totals"))
    recount_once(engine, closed_minutes=-1, is_forced=True)
    return balance(engine)


def test_what_leaves_a_split_ledger_is_noted_and_archived_and_what_stays_lives_on(
    engine: Engine, tmp_path: Path
) -> None:
    add_day(engine, DAY)
    before, drop_id = opened(engine), str(uuid4())
    with transaction(engine) as tx:
        for table in STAYS:
            tx.execute(text(f"alter table {table} detach partition {table}_first"))
        for table, stays in STAYS.items():
            tx.execute(text(f"insert into {table} select * from {table}_first where {stays}"))
        noted = note_dropped(tx, LEFT, drop_id, bounds_of(DAY))
    after = opened(engine)
    part = write_part(engine, tmp_path, DAY, relations=LEFT, drop_id=drop_id)
    with open_autocommit(engine) as tx:
        found = verify_archive(tmp_path, ledger=tx)
        kept = tx.execute(text("select id::text from runs where state = 'failed'")).scalars().all()

    assert (after.unaccounted, after.events, after.runs) == (0, before.events, before.runs)
    assert sum(row.started for row in noted) == 8
    assert part.manifest.counts == {
        "accepted": 8, "routed": 8, "unrouted": 0, "started": 8, "succeeded": 4, "failed": 0,
        "cancelled": 4,
    }  # fmt: skip
    assert {name: file.rows for name, file in part.manifest.files.items()} == {
        "events": 8, "runs": 8, "journal": 176, "failed_attempts": 0, "books": 2,
    }  # fmt: skip
    assert (found.findings, len(kept)) == ([], 4)
    replay(engine, kept, ReplayMode.BEGINNING, "again", "me")
    settle(engine, kept, "succeeded")
    last = opened(engine)
    assert (last.unaccounted, last.runs.failed, last.runs.succeeded) == (0, 0, 8)
