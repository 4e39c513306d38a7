"""A day of yesterday with everything in it, and the same after a drop took it."""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Engine, text

from tests.support.old_events import add_old_events
from tests.support.settled import run_sql, settle
from veltrix.archive.files import Show, go_on
from veltrix.archive.manifest import ArchivePart
from veltrix.archive.write import write_part
from veltrix.store.history.dropped_rows import Relations, bounds_of, note_dropped
from veltrix.store.transactions import transaction

# What `jsonb` would change, and what a line of a file could not have as it is.
ODD_JSON = '{"b":1.0,\n "a" : [1e2, "\\u00e9\\ud83d\\ude00"], "a": 12345678901234567890.10}'


def day_ago(days: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days)


def minutes_since_noon(day: date) -> int:
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    return int((datetime.now(UTC) - noon) / timedelta(minutes=1))


def add_day(engine: Engine, day: date, events: int = 4) -> list[str]:
    """Run ids of that many events with each ending, settled, with journal and failed attempts."""
    ids = []
    for number, state in enumerate(("succeeded", "failed", "cancelled")):
        minutes_ago = minutes_since_noon(day) - 7 * number
        found = add_old_events(engine, minutes_ago, events, data=ODD_JSON, type_=state)
        settle(engine, found, state)
        ids += found
    add_old_events(engine, minutes_since_noon(day), 2, is_routed=False, type_="nobody")
    bounds = bounds_of(day)
    run_sql(
        engine,
        "insert into journal (run_id, generation, position, kind, name, arguments_digest, output,"
        " error, attempts, recorded_at) select id, g, p::text, 'step', 'pay', '\\x00ff', '{\"x\":"
        " 1.50}', null, 1, started_at from runs, generate_series(0, 1) g, generate_series(1, 11) p"
        f" where id >= '{bounds.first}' and id < '{bounds.end}'",
        "insert into failed_attempts (run_id, generation, position, step, attempt, type, message,"
        " traceback, fingerprint, retry_delay_s) select id, 0, '1', 'pay', a, 'Broken', 'no, \"it\""
        " is\n', 'in line 1', 'f', 0.1 from runs, generate_series(1, 2) a"
        f" where state = 'failed' and id >= '{bounds.first}' and id < '{bounds.end}'",
    )
    return sorted(ids)


def copied(engine: Engine, folder: Path, day: date, show: Show = go_on) -> ArchivePart:
    return write_part(engine, folder, day, show=show)


def detach(engine: Engine, day: date, states: str = "('succeeded', 'failed', 'cancelled')") -> str:
    """Routed events of this day whose run ended so leave, as a drop takes them; the drop's id.

    What left is in tables beside: `gone_events` and so on.
    """
    drop_id, bounds = str(uuid4()), bounds_of(day)
    with transaction(engine) as tx:
        for table in ("events", "runs", "journal", "failed_attempts"):
            tx.execute(text(f"drop table if exists gone_{table}"))
            key = {"events": "id", "runs": "event_id"}.get(
                table, "(left(run_id::text, 30) || '000000')::uuid"
            )
            of = (
                f"{key} in (select event_id from runs where state in {states}"
                f" and id >= '{bounds.first}' and id < '{bounds.end}')"
            )
            tx.execute(text(f"create table gone_{table} as select * from {table} where {of}"))
        for table in ("events", "runs", "journal", "failed_attempts"):
            key = "id" if table in {"events", "runs"} else "run_id"
            tx.execute(text(f"delete from {table} where {key} in (select {key} from gone_{table})"))
        assert note_dropped(tx, GONE, drop_id, bounds)
    return drop_id


# As a drop names them that keeps some: what stays is left out by a select.
GONE = Relations(
    "gone_events",
    "(select * from gone_runs g where not exists (select from runs r where r.id = g.id))",
    "gone_journal",
    "(select * from gone_failed_attempts)",
)


def dropped(engine: Engine, folder: Path, day: date, drop_id: str) -> ArchivePart:
    """What left with this drop is archived."""
    return write_part(engine, folder, day, relations=GONE, drop_id=drop_id)


def files_of(folder: Path) -> set[str]:
    return {
        str(Path(where, name).relative_to(folder))
        for where, _, names in os.walk(folder)
        for name in names
    }
