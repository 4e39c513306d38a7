"""Crashes are kept with their runs, once each, and a poison run says how it ended."""

from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.settled import hold
from veltrix.pipeline.execute import lease_rows
from veltrix.pipeline.relay import due_rows
from veltrix.pipeline.relay.due_rows import QueueShare
from veltrix.store import crashes
from veltrix.store.crashes import Crash
from veltrix.store.transactions import open_autocommit, transaction

MESSAGE = "its worker process exited 9 (SIGKILL) in step crash at 2"


def note(engine: Engine, run_id: str, token: str, **known: Any) -> int:
    crash = Crash(run_id=run_id, message=MESSAGE, position="2", step="crash", **known)
    with open_autocommit(engine) as tx:
        return crashes.note(tx, token, crash, now=100.0)


def attempts(engine: Engine) -> list[Any]:
    with transaction(engine) as tx:
        columns = "position, step, attempt, type, message, worker_id, retry_delay_s, is_crash"
        return [tuple(row) for row in tx.execute(text(f"select {columns} from failed_attempts"))]


def scan(engine: Engine) -> due_rows.Scanned | None:
    with open_autocommit(engine) as tx:
        return due_rows.scan(
            tx,
            [QueueShare("orders", 100)],
            hold_s=8.0,
            hold_s_max=300.0,
            poison_crashes_max=3,
            rescue=["orders"],
        )


def test_a_crash_is_kept_once_with_the_run_that_still_has_the_token(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    token = hold(engine, [run_id])

    assert note(engine, run_id, str(uuid4())) == 0, "somebody else holds it"
    kept = note(engine, run_id, token, began=98.0, took_ms=1_900, arguments='[["x"],{}]')
    assert (kept, note(engine, run_id, token)) == (1, 0), "said again, it is the same crash"

    assert attempts(engine) == [
        ("2", "crash", 1, "WorkerCrashed", MESSAGE, "worker", 0.0, True),
    ]
    with transaction(engine) as tx:
        columns = "extract(epoch from now() - began_at)::float8, took_ms, arguments"
        ago_s, took_ms, arguments = tx.execute(text(f"select {columns} from failed_attempts")).one()
    assert 1.9 < ago_s < 7.0
    assert (took_ms, arguments) == (1_900, '[["x"],{}]')


def test_a_poison_run_says_its_step_its_exit_code_and_how_often(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    for worker in ("w/1", "w/2", "w/3"):
        token = str(uuid4())
        with open_autocommit(engine) as tx:
            assert lease_rows.claim(tx, token, worker, [(run_id, run_id)], hold_s=8.0)
        note(engine, run_id, token)
        with open_autocommit(engine) as tx:
            lease_rows.release(tx, token, [run_id], 0.0)
    change_runs(engine, [run_id], "crashes = 3")

    found = scan(engine)

    assert found is not None
    assert [run.id for run in found.poisoned] == [run_id]
    (row,) = read_runs(engine, [run_id], "state, reason, failed_step, outcome")
    assert (row.state, row.reason, row.failed_step) == ("failed", "poison", "crash")
    assert row.outcome == {"type": "WorkerCrashed", "message": MESSAGE, "crashes": 3}
    assert [(a[2], a[5], a[6]) for a in attempts(engine)] == [
        (1, "w/1", 0.0),
        (2, "w/2", 0.0),
        (3, "w/3", None),
    ]
    with transaction(engine) as tx:
        assert tx.execute(text("select step from failure_deltas")).scalars().all() == ["crash"]


def test_a_poison_run_of_which_nothing_is_known_has_an_outcome_too(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    change_runs(engine, [run_id], "crashes = 3, alone = true, due_at = now()")

    scan(engine)

    (row,) = read_runs(engine, [run_id], "reason, failed_step, outcome")
    assert (row.reason, row.failed_step) == ("poison", None)
    assert row.outcome["type"] == "WorkerCrashed"


def test_a_run_whose_worker_vanished_says_so(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    hold(engine, [run_id])
    change_runs(engine, [run_id], "due_at = now() - interval '1 second'")

    found = scan(engine)

    assert found is not None
    assert found.rescued == [run_id]
    ((position, step, attempt, type_, message, worker, *_, is_crash),) = attempts(engine)
    assert (position, step, attempt, type_) == ("worker", "", 1, "WorkerVanished")
    assert (worker, is_crash) == ("worker", True)
    assert "did not renew the lease" in message
