"""One write holds whatever a list has: entries, failed attempts and settlements of any run."""

from collections import Counter
from uuid import uuid4

from sqlalchemy import Engine, text

from tests.support.due_runs import add_runs, read_runs
from tests.support.settled import hold
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry, Settlement
from veltrix.store.transactions import transaction


def entry(run_id: str, position: str) -> JournalEntry:
    return JournalEntry(run_id, position, "step", "charge", output=f'"{position}"')


def failed(run_id: str, position: str) -> FailedAttempt:
    return FailedAttempt(run_id, position, "charge", 1, "Declined", "no", "", "f" * 16)


def positions(engine: Engine, table: str) -> Counter[tuple[str, str]]:
    with transaction(engine) as tx:
        rows = tx.execute(text(f"select run_id::text, position from {table}"))
        return Counter((run_id, position) for run_id, position in rows)


def test_runs_with_any_mixture_are_written_whole_and_one_that_is_lost_not_at_all(
    engine: Engine,
) -> None:
    many, working, retried, lost = sorted(add_runs(engine, 4))
    token = hold(engine, [many, working, retried])
    hold(engine, [lost])
    entries = [
        *(entry(many, position) for position in ("1.0.0", "1.1.0", "1.2.0", "2")),
        entry(working, "1"),
        entry(lost, "1"),
    ]
    failures = [
        failed(many, "1.1.0"),
        failed(retried, "1"),
        failed(retried, "2"),
        failed(lost, "1"),
    ]
    settlements = [
        Settlement(run_id=many, state="succeeded", outcome="1"),
        Settlement(run_id=retried, state="waiting", wait_s=5.0),
        Settlement(run_id=lost, state="succeeded", outcome="2"),
    ]

    with transaction(engine) as tx:
        held = journal_rows.write(tx, token, "worker", entries, failures, settlements)

    assert held == {many: False, working: False, retried: False}
    assert positions(engine, "journal") == Counter(
        (e.run_id, e.position) for e in entries if e.run_id != lost
    )
    assert positions(engine, "failed_attempts") == Counter(
        (f.run_id, f.position) for f in failures if f.run_id != lost
    )
    states = [row.state for row in read_runs(engine, [many, working, retried, lost], "state")]
    assert states == ["succeeded", "running", "waiting", "running"]


def test_a_stranger_writes_nothing(engine: Engine) -> None:
    (run,) = add_runs(engine, 1)
    hold(engine, [run])
    with transaction(engine) as tx:
        settlement = Settlement(run_id=run, state="succeeded", outcome="1")
        held = journal_rows.write(tx, str(uuid4()), "worker", [entry(run, "1")], [], [settlement])

    assert held == {}
    assert positions(engine, "journal") == Counter()
    assert read_runs(engine, [run], "state")[0].state == "running"
