"""A day of the ledger leaves: what stays is there all the time, and the books always balance."""

import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from tests.archive.history import add_day, day_ago
from tests.support.old_days import make_old_days
from tests.support.roles import make_roles
from tests.support.settled import fold_all, run_sql, settle
from veltrix.archive.folder import parts_of
from veltrix.archive.verify import check_part
from veltrix.domain.ids import event_id_of
from veltrix.domain.states import ReplayMode
from veltrix.operations.books.books import balance, recount_once
from veltrix.operations.replays.move import replay
from veltrix.operations.retention import drop, drop_rows, lines
from veltrix.operations.retention.drop_rows import DropRow
from veltrix.operations.retention.policies import set_policies
from veltrix.operations.retention.rules import DAY_S, DEFAULTS, PolicyOutcome, RetentionPolicy
from veltrix.store.history.dropped_rows import bounds_of
from veltrix.store.transactions import make_engine, open_autocommit, transaction

DAY = day_ago(60)
EVENTS = 4  # with each ending; 2 more are unrouted
FORGET_ALL = [RetentionPolicy("", one, DAY_S, 400 * DAY_S) for one in PolicyOutcome]


@pytest.fixture
def ledger(engine: Engine) -> Engine:
    """Two days of long ago, and today; the books of all of them are sealed."""
    make_old_days(engine, DAY, 2)
    for day in (DAY, day_ago(59)):
        add_day(engine, day, EVENTS)
    run_sql(engine, "update runs set settled_at = started_at + interval '1 minute'")
    seal(engine)
    set_policies(engine, DEFAULTS, "a test", "ann")
    return engine


def seal(engine: Engine) -> None:
    fold_all(engine)
    for _ in range(5):
        recount_once(engine)


def ask(engine: Engine, sql: str) -> list[tuple[object, ...]]:
    with transaction(engine) as tx:
        return [tuple(row) for row in tx.execute(text(sql))]


def count(engine: Engine, what: str) -> int:
    ((found,),) = ask(engine, f"select count(*) from {what}")
    assert isinstance(found, int)
    return found


def of_day(engine: Engine, table: str, key: str = "id", day: date = DAY) -> list[str]:
    first, end = bounds(day)
    rows = ask(
        engine, f"select {key}::text from {table} where {key} >= '{first}' and {key} < '{end}'"
    )
    return sorted(str(row[0]) for row in rows)


def bounds(day: date) -> tuple[str, str]:
    found = bounds_of(day)
    return found.first, found.end


def check_books(engine: Engine) -> None:
    """Nothing is unaccounted for, of what is there and of what was dropped, recounted from rows."""
    fold_all(engine)
    run_sql(engine, "update counters set is_sealed = false, recounted_at = null where is_sealed")
    run_sql(engine, "update counter_totals set accepted = 0, routed = 0, unrouted = 0, started = 0,"
                    " succeeded = 0, failed = 0, cancelled = 0")  # fmt: skip
    recount_once(engine)
    books = balance(engine)
    assert books.unaccounted == 0
    assert books.events.accepted == 2 * (3 * EVENTS + 2)
    assert books.runs.started == 2 * 3 * EVENTS


def test_a_day_leaves_but_for_what_stays_and_the_next_one_after_it(
    ledger: Engine, tmp_path: Path
) -> None:
    steps: list[str] = []

    done = drop.drop_next(ledger, author="ann", archive=tmp_path, tell=steps.append)

    assert done is not None
    assert (done.name, done.state) == (f"{DAY:%Y%m%d}", "freed")
    assert (done.events_left, done.events_kept) == (2 * EVENTS, EVENTS + 2)
    assert len(of_day(ledger, "events")) == EVENTS + 2
    states = ask(
        ledger,
        f"select state, count(*) from runs where id < '{bounds(DAY)[1]}' group by 1",
    )
    assert states == [("failed", EVENTS)]
    runs = of_day(ledger, "runs")
    assert set(of_day(ledger, "journal", "run_id")) == set(runs)
    assert set(of_day(ledger, "failed_attempts", "run_id")) == set(runs)
    assert len(of_day(ledger, "events", day=day_ago(59))) == 3 * EVENTS + 2
    assert ask(ledger, "select relname from pg_class where relname ~ '_(left|kept|new)$'") == []
    (part,) = parts_of(tmp_path)
    check_part(part)
    assert part.manifest.counts["accepted"] == 2 * EVENTS
    assert count(ledger, "ledger_lines") == 2 * EVENTS
    check_books(ledger)

    second = drop.drop_next(ledger, author="ann", archive=tmp_path)
    assert second is not None
    assert second.name == f"{day_ago(59):%Y%m%d}"
    assert drop.drop_next(ledger, author="ann", archive=tmp_path) is None
    assert len(parts_of(tmp_path)) == 2
    check_books(ledger)


def test_what_stayed_leaves_with_a_second_drop_of_its_day(ledger: Engine, tmp_path: Path) -> None:
    assert drop.drop_next(ledger, author="ann", archive=tmp_path) is not None
    run_sql(
        ledger, "update runs set archived_at = now() - interval '91 days' where state = 'failed'"
    )
    set_policies(ledger, FORGET_ALL, "all of it", "ann")

    again = drop.drop_next(ledger, author="ann", archive=tmp_path)

    assert again is not None
    assert (again.name, again.events_left, again.events_kept) == (f"{DAY:%Y%m%d}", EVENTS + 2, 0)
    for table, key in (
        ("events", "id"),
        ("runs", "id"),
        ("journal", "run_id"),
        ("failed_attempts", "run_id"),
    ):
        assert of_day(ledger, table, key) == []
    assert [check_part(part) for part in parts_of(tmp_path)]
    assert count(ledger, "ledger_lines") == 3 * EVENTS + 2
    check_books(ledger)


def test_without_policies_nothing_leaves(engine: Engine) -> None:
    make_old_days(engine, DAY, 1)
    add_day(engine, DAY, EVENTS)
    seal(engine)

    assert drop.drop_next(engine, author="ann") is None


def test_a_day_of_which_most_must_stay_is_left_as_it_is(ledger: Engine) -> None:
    set_policies(ledger, [RetentionPolicy("", PolicyOutcome.SUCCEEDED, None, None)], "keep", "ann")

    assert drop.drop_next(ledger, author="ann") is None


def replay_failed(ledger: Engine) -> None:
    """A run of the day goes on, and ends in it."""
    failed, *_ = of_day(ledger, "runs_failed")
    assert replay(ledger, [failed], ReplayMode.BEGINNING, "again", "ops")
    settle(ledger, [failed], "succeeded")


def begin_another(ledger: Engine) -> None:
    """An event that was to leave starts another run, which is open."""
    (run,) = of_day(ledger, "runs_ended")[:1]
    event = event_id_of(run)
    run_sql(
        ledger,
        "insert into runs (id, event_id, account_id, minute, payload_bytes, started_at, due_at,"
        f" state, workflow, queue) select '{event[:-6]}abcdef', id, account_id, minute, 2, now(),"
        f" now(), 'queued', 'another', 'q' from events where id = '{event}'",
        "insert into counter_deltas (account_id, minute, started) select account_id, minute, 1"
        f" from events where id = '{event}'",
    )


@pytest.mark.parametrize("change", [replay_failed, begin_another])
@pytest.mark.parametrize("when", ["are copied", "copied again"])
def test_what_changes_while_a_day_is_copied_stays(
    ledger: Engine, change: Callable[[Engine], None], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After what stays was copied, and after what had changed by then was copied again."""
    before = {table: of_day(ledger, table) for table in ("events", "runs")}
    if when == "copied again":
        looked = drop_rows.undone

        def look(tx: object, part: object) -> list[str]:
            nonlocal change
            found = looked(tx, part)  # type: ignore[arg-type]
            now, change = change, lambda _engine: None
            now(ledger)
            return found

        monkeypatch.setattr(drop_rows, "undone", look)

    done = drop.drop_next(
        ledger,
        author="ann",
        tell=lambda step: change(ledger) if when in step else None,
    )

    assert done is not None
    assert done.events_kept >= EVENTS + 2
    kept_runs, kept_events = set(of_day(ledger, "runs")), set(of_day(ledger, "events"))
    assert {event_id_of(run) for run in kept_runs} <= kept_events
    assert kept_events <= set(before["events"])
    failed = count(ledger, f"runs where state = 'failed' and id < '{bounds(DAY)[1]}'")
    assert failed in (EVENTS, EVENTS - 1)
    fold_all(ledger)
    run_sql(ledger, "update counters set recounted_at = null, is_sealed = false")
    assert recount_once(ledger).discrepancy == 0


def test_an_open_run_that_nobody_foresaw_is_not_dropped_with_its_day(ledger: Engine) -> None:
    """The last look is under the lock: whatever was copied, and however it was judged."""
    begin_another(ledger)
    event = ask(ledger, "select event_id::text from runs where workflow = 'another'")[0][0]

    done = drop.drop_next(ledger, author="ann")

    assert done is not None
    assert event in of_day(ledger, "events")
    assert len([run for run in of_day(ledger, "runs") if event_id_of(run) == event]) == 2


def kill_at(url: str, archive: Path, word: str) -> None:
    """Drop in a process of its own that is killed when it says this."""
    code = (
        "import sys, pathlib, os, signal\n"
        "from veltrix.operations.retention.drop import drop_next\n"
        "from veltrix.store.transactions import make_engine\n"
        "def tell(step):\n"
        "    if sys.argv[3] in step: os.kill(os.getpid(), signal.SIGKILL)\n"
        "engine = make_engine(sys.argv[1], application='tests', connections_max=5)\n"
        "drop_next(engine, author='ann', archive=pathlib.Path(sys.argv[2]), tell=tell)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, url, str(archive), word], timeout=120, check=False
    )
    assert done.returncode == -9, word


@pytest.mark.parametrize(
    "word", ["are copied", "out of sight", "in the books", "is archived", "lines of it", "are free"]
)
def test_whoever_dies_in_a_drop_leaves_one_that_is_gone_on_with(
    ledger: Engine, database_url: str, tmp_path: Path, word: str
) -> None:
    kill_at(database_url, tmp_path, word)
    assert balance(ledger).unaccounted == 0
    if word != "are free":
        with open_autocommit(ledger) as tx:
            assert drop_rows.unfinished(tx) is not None
    seal(ledger)

    while drop.drop_next(ledger, author="ann", archive=tmp_path) is not None:
        pass

    assert sorted(ask(ledger, "select state, events_left from retention_drops")) == [
        ("freed", 2 * EVENTS)
    ] * 2  # fmt: skip
    assert len([check_part(part) for part in parts_of(tmp_path)]) == 2
    assert count(ledger, "ledger_lines") == 4 * EVENTS
    assert ask(ledger, "select relname from pg_class where relname ~ '_(left|kept|new)$'") == []
    check_books(ledger)


def test_a_drop_waits_for_a_long_reader_and_nobody_waits_for_the_drop(
    ledger: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "TRIES_MAX", 3)
    monkeypatch.setattr(drop, "PAUSE_S", 0.01)
    with ledger.connect() as reader:
        reader.execute(text("select count(*) from events"))
        with pytest.raises(drop.DropHeldUp, match="it goes on"):
            drop.drop_next(ledger, author="ann")
        assert len(of_day(ledger, "events")) == 3 * EVENTS + 2

    assert drop.drop_next(ledger, author="ann") is not None
    assert len(of_day(ledger, "events")) == EVENTS + 2


def test_identities_are_forgotten_a_month_after_the_content_and_lines_when_they_are_old(
    ledger: Engine,
) -> None:
    done = drop.drop_next(ledger, author="ann")
    assert done is not None
    identities = count(ledger, "identities")
    with open_autocommit(ledger) as tx:
        assert lines.forget_identities(tx) == 0
        run_sql(ledger, "update retention_drops set began_at = now() - interval '31 days'")
        assert lines.forget_identities(tx) == 2 * EVENTS
        assert lines.forget_identities(tx) == 0
    assert count(ledger, "identities") == identities - 2 * EVENTS
    kept = of_day(ledger, "events")
    assert len(ask(ledger, f"select 1 from identities where event_id = '{kept[0]}'")) == 1
    policies = {("", one): RetentionPolicy("", one, DAY_S, 50 * DAY_S) for one in PolicyOutcome}
    with open_autocommit(ledger) as tx:
        now = tx.exec_driver_sql("select now()").scalar_one()
        assert lines.drop_old(tx, policies, now) == [f"ledger_lines_{DAY:%Y%m%d}"]
        assert lines.drop_old(tx, policies, now) == []


def test_a_run_of_an_unsealed_minute_without_its_event_is_not_swept_away(ledger: Engine) -> None:
    (run,) = of_day(ledger, "runs_ended")[:1]
    run_sql(
        ledger,
        f"delete from events where id = '{event_id_of(run)}'",
        "update counters set is_sealed = false, recounted_at = null",
    )
    recount_once(ledger)
    found: DropRow | None = drop.drop_next(ledger, author="ann")

    assert found is not None
    assert run in of_day(ledger, "runs")


def test_the_platforms_role_cannot_drop(ledger: Engine, database_url: str) -> None:
    roles = make_roles(database_url)
    as_app = make_engine(roles.app, application="tests")
    with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
        drop.drop_next(as_app, author="ann")
    as_owner = make_engine(roles.owner, application="tests")
    assert drop.drop_next(as_owner, author="ann") is not None


def test_a_part_that_ends_within_a_minute_is_judged_to_its_end(engine: Engine) -> None:
    """What nobody judged would leave, and be in no book."""
    run_ids = add_day(engine, DAY, EVENTS)
    run_sql(engine, "update runs set settled_at = started_at + interval '1 minute'")
    seal(engine)
    set_policies(engine, DEFAULTS, "a test", "ann")
    last = of_day(engine, "events")[-1]
    with transaction(engine) as tx:
        for whole in ("events", "journal", "failed_attempts", "runs_ended"):
            tx.execute(text(f"alter table {whole} detach partition {whole}_first"))
            end = last[:-6] + "ffffff"
            attach = f"attach partition {whole}_first for values from (minvalue) to ('{end}')"
            tx.execute(text(f"alter table {whole} {attach}"))

    done = drop.drop_next(engine, author="ann")

    assert done is not None
    assert len(of_day(engine, "events")) == EVENTS + 2
    assert len(of_day(engine, "runs")) == EVENTS
    assert done.events_left + done.events_kept == 3 * EVENTS + 2
    assert len(run_ids) == 3 * EVENTS
    fold_all(engine)
    run_sql(engine, "update counters set recounted_at = null, is_sealed = false")
    assert recount_once(engine).discrepancy == 0


def test_a_second_drop_at_once_leaves_the_first_alone(ledger: Engine, database_url: str) -> None:
    """A night's drop that takes longer than a day: the next one would empty its copies."""
    said: list[str] = []

    def tell(step: str) -> None:
        if "are copied" in step:
            other = make_engine(database_url, application="tests", connections_max=2)
            try:
                with pytest.raises(drop.DropHeldUp, match="another drop is at work"):
                    drop.drop_next(other, author="bob")
            finally:
                other.dispose()
            said.append(step)

    assert drop.drop_next(ledger, author="ann", tell=tell) is not None
    assert len(said) == 1
    assert drop.drop_next(ledger, author="bob") is not None
    check_books(ledger)


def test_a_failed_run_without_its_event_holds_no_drop_up(ledger: Engine) -> None:
    failed, *_ = of_day(ledger, "runs_failed")
    run_sql(ledger, f"delete from events where id = '{event_id_of(failed)}'")

    done = drop.drop_next(ledger, author="ann")

    assert done is not None
    assert failed in of_day(ledger, "runs")
