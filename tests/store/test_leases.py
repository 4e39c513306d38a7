"""Claims and releases beside others: nothing is lost to a deadlock, nobody queues twice."""

import time
from threading import Thread
from uuid import uuid4

from sqlalchemy import Engine, TextClause, text
from sqlalchemy.engine import make_url

from tests.support.due_runs import add_runs
from tests.support.wait import until
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.execute.lease_rows import Claim
from veltrix.store.transactions import Link, make_engine, open_autocommit, transaction

LOCK = text("select 1 from runs where id = any(cast(:ids as uuid[])) for update")
BLOCKED = text(
    "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    " and datname = current_database()"
)
DEADLOCKS = text("select deadlocks from pg_stat_database where datname = current_database()")


def asked(engine: Engine, question: TextClause) -> int:
    """The answer now: one transaction would see the same statistics again and again."""
    with transaction(engine) as tx:
        return int(tx.execute(question).scalar_one())


def test_a_claim_that_loses_a_deadlock_is_run_again_and_has_every_run(
    engine: Engine, database_url: str
) -> None:
    # Of nine the claim has some when it comes to the one in the middle, whichever way it goes.
    run_ids = sorted(add_runs(engine, 9))
    held, others = run_ids[4], [*run_ids[:4], *run_ids[5:]]
    # Who looks first, and finds a deadlock, is ended: the claim, however slow this machine is.
    name = make_url(database_url).database
    with transaction(engine) as tx:
        tx.execute(text(f"alter database {name} set deadlock_timeout = '3s'"))
    link = Link(make_engine(database_url, application="tests claim"), time.sleep)
    token, claimed = str(uuid4()), list[Claim]()

    def claim() -> None:
        deliveries = [(run_id, run_id) for run_id in run_ids]
        claimed.extend(link.call(lambda tx: lease_rows.claim(tx, token, "w", deliveries, 8.0)))

    claimer = Thread(target=claim)
    with transaction(engine) as other:
        other.execute(text("set local deadlock_timeout = '60s'"))
        other.execute(LOCK, {"ids": [held]})
        claimer.start()
        until(lambda: asked(engine, BLOCKED) == 1, what="the claim to wait")
        other.execute(LOCK, {"ids": others})  # the claim has some: it is the one that is ended
    claimer.join(10)
    link.close()

    assert sorted(claim.run_id for claim in claimed) == run_ids
    # Run again it may be quicker than the other at the next row, and lose once more.
    until(lambda: asked(engine, DEADLOCKS) >= 1, what="the deadlock to be counted")


def test_runs_of_a_dead_child_are_free_and_due_when_they_shall_be(engine: Engine) -> None:
    now_due, later_due = add_runs(engine, 2)
    token = str(uuid4())
    with open_autocommit(engine) as tx:
        lease_rows.claim(tx, token, "w", [(now_due, now_due), (later_due, later_due)], 60.0)

        assert lease_rows.release(tx, token, [now_due], 0.0) == {now_due}
        assert lease_rows.release(tx, token, [now_due, later_due], 5.0) == {later_due}, (
            "held no more"
        )

    seen = text(
        "select state, alone, lease_token is null, round(extract(epoch from due_at - now()) / 5)"
        " from runs where id = any(:ids) order by due_at"
    )
    with transaction(engine) as tx:
        rows = [tuple(row) for row in tx.execute(seen, {"ids": [now_due, later_due]})]
    assert rows == [("queued", True, True, 0), ("queued", True, True, 1)]
