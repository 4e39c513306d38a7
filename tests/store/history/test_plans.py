"""Hot statements on a ledger of many days: they ask for open runs alone, whatever is in history."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text

from tests.support.due_runs import add_runs
from tests.support.settled import settle
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.journal_rows import JournalEntry, Settlement
from veltrix.pipeline.relay import due_rows
from veltrix.store.history import days
from veltrix.store.transactions import make_engine, open_autocommit

TOKEN, TOLD = "7f000000-0000-4000-8000-000000000001", "7f000000-0000-4000-8000-000000000002"
LOCKED = """
select distinct c.relname::text from pg_locks l join pg_class c on c.oid = l.relation
where l.pid = pg_backend_pid() and c.relkind in ('r', 'p')
    and c.relnamespace = 'public'::regnamespace
"""


@pytest.fixture
def hot(engine: Engine, database_url: str) -> Iterator[Connection]:
    """A session as the path's, in a transaction, beside a ledger of 30 days with history."""
    with open_autocommit(engine) as tx:
        today = days.today(tx)
        for number in range(30):
            days.make(tx, today + timedelta(days=number))
    settle(engine, add_runs(engine, 50), "succeeded")
    settle(engine, add_runs(engine, 5), "failed")
    hot = make_engine(database_url, application="tests", is_hot=True, is_naming=True)
    with hot.connect() as tx:
        yield tx
    hot.dispose()


def locked(tx: Connection) -> set[str]:
    """The tables that this transaction has touched, or planned to."""
    return set(tx.execute(text(LOCKED)).scalars())


def history(tables: set[str]) -> set[str]:
    return {name for name in tables if name.startswith(("runs_ended", "runs_failed"))}


def test_a_claim_asks_for_open_runs_and_their_events(engine: Engine, hot: Connection) -> None:
    run_ids = add_runs(engine, 3)

    claims = lease_rows.claim(hot, TOKEN, "w", [(id_, id_) for id_ in run_ids], 8.0)

    assert [claim.source for claim in claims] == ["/tests"] * 3
    assert history(locked(hot)) == set()


def test_a_write_touches_the_day_that_its_runs_end_in_and_no_other(
    engine: Engine, hot: Connection
) -> None:
    run_ids = add_runs(engine, 3)
    lease_rows.claim(hot, TOKEN, "w", [(id_, id_) for id_ in run_ids], 8.0)
    hot.commit()
    entries = [JournalEntry(run_ids[0], "1", "step", "charge")]
    ends = [Settlement(run_id=id_, state="succeeded", outcome="1") for id_ in run_ids[:2]]

    journal_rows.write(hot, TOKEN, "w", entries, [], ends)

    assert history(locked(hot)) == {"runs_ended", "runs_ended_first"}


def test_looks_scans_and_leases_ask_for_open_runs_alone(engine: Engine, hot: Connection) -> None:
    run_ids = add_runs(engine, 3)
    wanted = [due_rows.QueueShare("orders", 2)]
    found = due_rows.scan(
        hot, wanted, hold_s=8.0, hold_s_max=60.0, poison_crashes_max=3, rescue=["orders"]
    )
    due_rows.depths(
        hot, ["orders"], floors={}, due_floors={}, hold_s_max=60.0, rows_max=10,
        due_max={"orders": 10},
    )  # fmt: skip
    due_rows.queues_with_open_runs(hot)
    due_rows.make_due(hot, "orders")
    due_rows.make_runs_due(hot, run_ids)
    for move in (lease_rows.lock_held, lease_rows.held, lease_rows.hand_back):
        move(hot, TOKEN, run_ids)
    lease_rows.renew(hot, TOKEN, run_ids, 8.0)
    lease_rows.release(hot, TOKEN, run_ids, 0.0)
    lease_rows.announce(hot, TOKEN, "w", [(run_ids[0], run_ids[0], 0.0)], 8.0)

    assert found is not None
    assert len(found.runs) == 2
    assert history(locked(hot)) == set()


def test_a_session_that_planned_on_an_empty_ledger_reads_what_is_named_alone(
    engine: Engine, database_url: str
) -> None:
    """A table of open runs looks empty when a session begins, and is not an hour later."""
    hot = make_engine(database_url, application="tests", is_hot=True, is_naming=True)
    few, many = add_runs(engine, 2), add_runs(engine, 3_000)
    scanned = "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'runs_pkey'"
    before = 0
    with open_autocommit(hot) as tx:
        for named in (few, many[:100]):
            token = str(uuid4())
            lease_rows.claim(tx, token, "w", [(id_, id_) for id_ in named], 8.0)
            ends = [Settlement(run_id=id_, state="succeeded", outcome="1") for id_ in named]
            tx.execute(text("select pg_stat_force_next_flush()"))
            before = tx.execute(text(scanned)).scalar_one()
            journal_rows.write(tx, token, "w", [], [], ends)
        tx.execute(text("select pg_stat_force_next_flush()"))
        read = tx.execute(text(scanned)).scalar_one() - before
    hot.dispose()

    assert 100 <= read < 1_000
