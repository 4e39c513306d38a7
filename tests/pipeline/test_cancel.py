"""Cancel: open runs end at once or before their next step; settled ones are left alone."""

from threading import Thread

from sqlalchemy import Engine

from tests.support.due_runs import add_runs, read_runs
from tests.support.settled import hold, settle
from veltrix.operations.books.books import balance
from veltrix.operations.runs.cancel import Cancelled, CancelRequested, NotCancelled, cancel
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.pipeline.execute.journal_rows import JournalEntry
from veltrix.store.transactions import open_autocommit

UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"


def test_a_run_that_no_worker_holds_is_cancelled_at_once(engine: Engine) -> None:
    queued, waiting = add_runs(engine, 1), add_runs(engine, 1, delay_s=60)

    answers = cancel(engine, queued + waiting, "no longer wanted", "operator")

    assert answers == [Cancelled(id_) for id_ in sorted(queued + waiting)]
    columns = "state, reason, due_at, settled_at is not null"
    for row in read_runs(engine, queued + waiting, columns):
        assert tuple(row) == ("cancelled", "requested", None, True)
    books = balance(engine)
    assert (books.runs.cancelled, books.runs.open, books.unaccounted) == (2, 0, 0)


def test_a_cancelled_run_cannot_be_claimed(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    cancel(engine, ids, "no", "me")

    with open_autocommit(engine) as tx:
        assert lease_rows.claim(tx, UNKNOWN, "worker", [(ids[0], ids[0])], hold_s=8.0) == []


def test_the_worker_that_holds_a_run_is_told_with_its_next_write(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    token = hold(engine, ids)

    assert cancel(engine, ids, "no", "me") == [CancelRequested(ids[0])]

    assert read_runs(engine, ids, "state")[0][0] == "running"
    with open_autocommit(engine) as tx:
        step = JournalEntry(ids[0], "0", "step", "reserve", None, "1")
        assert journal_rows.write(tx, token, "worker", [step], [], []) == {ids[0]: True}
    assert balance(engine).unaccounted == 0


def test_every_run_of_the_list_is_answered_and_settled_ones_are_left_alone(engine: Engine) -> None:
    queued, succeeded, failed = (add_runs(engine, 1)[0] for _ in range(3))
    settle(engine, [succeeded], "succeeded")
    settle(engine, [failed], "failed")

    answers = cancel(engine, [failed, "no id", queued, UNKNOWN, succeeded], "no", "me")

    expected: list[Cancelled | NotCancelled] = [
        Cancelled(queued),
        NotCancelled(succeeded, "succeeded"),
        NotCancelled(failed, "failed"),
        NotCancelled(UNKNOWN, None),
        NotCancelled("no id", None),
    ]
    assert answers == sorted(expected, key=lambda answer: answer.run_id)
    assert [row[0] for row in read_runs(engine, [succeeded, failed], "state")] == [
        "succeeded",
        "failed",
    ]


def test_who_cancelled_and_why_is_kept(engine: Engine) -> None:
    ids = add_runs(engine, 1)

    cancel(engine, ids, "no longer wanted", "operator")
    cancel(engine, ids, "again", "operator")

    with open_autocommit(engine) as tx:
        rows = tx.exec_driver_sql("select run_id::text, action, author, reason from actions").all()
    assert [tuple(row) for row in rows] == [(ids[0], "cancel", "operator", "no longer wanted")]


def test_cancelling_twice_at_the_same_time_counts_once(engine: Engine) -> None:
    ids = add_runs(engine, 100)
    threads = [Thread(target=lambda: cancel(engine, ids, "no", "me")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    books = balance(engine)
    assert (books.runs.cancelled, books.unaccounted) == (100, 0)
