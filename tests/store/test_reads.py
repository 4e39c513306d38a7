"""Reads of runs: the whole story of one, pages of many, and what they cost."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from tests.support.due_runs import add_runs, change_runs
from tests.support.settled import hold, settle
from veltrix.domain.ids import event_id_of, runs_range
from veltrix.domain.states import ReplayMode, RunState
from veltrix.operations.replays.move import replay
from veltrix.operations.runs import read, read_story
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read import RunPage
from veltrix.operations.runs.read_story import RunStory
from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.execute import journal_rows
from veltrix.pipeline.execute.journal_rows import FailedAttempt, JournalEntry
from veltrix.store.transactions import open_autocommit, transaction

UNKNOWN = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"


def story(engine: Engine, run_id: str) -> RunStory | None:
    with transaction(engine, snapshot=True) as tx:
        return read_story.story(tx, run_id)


def page(
    engine: Engine,
    cursor: str | None = None,
    limit: int = 50,
    rows_max: int = read.ROWS_MAX,
    **wanted: object,
) -> RunPage:
    with open_autocommit(engine) as tx:
        asked = RunQuery(**wanted)  # type: ignore[arg-type]
        return read.page(tx, asked, cursor=cursor, limit=limit, rows_max=rows_max)


def ids_of(found: RunPage) -> list[str]:
    return [run.id for run in found.items]


def newest(ids: list[str]) -> list[str]:
    return sorted(ids, reverse=True)


def test_the_story_of_a_run_has_its_event_steps_attempts_actions_and_outcome(
    engine: Engine,
) -> None:
    (run_id,) = add_runs(engine, 1)
    token = hold(engine, [run_id])
    failed = FailedAttempt(run_id, "1", "charge", 1, "Declined", "no", "trace", "f1")
    with open_autocommit(engine) as tx:
        step = JournalEntry(run_id, "0", "step", "reserve", None, '{"a":1e5}')
        journal_rows.write(tx, token, "worker", [step], [failed], [])
        end = JournalEntry(run_id, "1", "step", "charge", None, None, '{"type":"Declined"}')
        settlement = journal_rows.Settlement(
            run_id=run_id, state="failed", outcome='{"type":"Declined"}', failed_step="charge"
        )
        journal_rows.write(tx, token, "worker", [end], [], [settlement])
    replay(engine, [run_id], ReplayMode.FAILED_STEP, "payments are back", "operator")

    told = story(engine, run_id)

    assert told is not None
    assert (told.state, told.generation, told.event) == (RunState.QUEUED, 1, event_id_of(run_id))
    assert (told.cloudevent.source, told.cloudevent.type) == ("/tests", "shop.order.placed")
    assert [(s.generation, s.position, s.name) for s in told.steps] == [
        (0, "0", "reserve"),
        (0, "1", "charge"),
        (1, "0", "reserve"),
    ]
    assert told.steps[0].output is not None
    assert bytes(told.steps[0].output) == b'{"a":1e5}', "as it was recorded"
    assert [(a.step, a.type, a.traceback) for a in told.failed_attempts] == [
        ("charge", "Declined", "trace")
    ]
    assert [(a.action, a.author, a.reason) for a in told.actions] == [
        ("replay.failed_step", "operator", "payments are back")
    ]


def test_there_is_no_story_of_an_unknown_run(engine: Engine) -> None:
    assert story(engine, UNKNOWN) is None


def test_outputs_of_a_story_are_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_story, "OUTPUT_BYTES_MAX", 10)
    (run_id,) = add_runs(engine, 1)
    steps = [JournalEntry(run_id, p, "step", "s", None, '"123456"') for p in ("0", "1")]
    settle(engine, [run_id], "succeeded", steps)

    told = story(engine, run_id)

    assert told is not None
    assert [(s.output is None, s.output_bytes) for s in told.steps] == [(False, 8), (True, 8)]


def test_pages_go_from_the_newest_to_the_oldest_and_miss_none(engine: Engine) -> None:
    ids = add_runs(engine, 5)

    pages, cursor = [], None
    while True:
        found = page(engine, cursor, limit=2)
        pages.append(ids_of(found))
        cursor = found.next
        if cursor is None:
            break

    assert list(chain(*pages)) == newest(ids)
    assert [len(one) for one in pages] == [2, 2, 1]


def test_each_filter_finds_its_runs_only(engine: Engine) -> None:
    queued = add_runs(engine, 2, workflow="a", queue="one")
    failed = add_runs(engine, 2, workflow="b", queue="two")
    settle(engine, failed, "failed", fingerprint="f1", key="order-7")
    waiting = add_runs(engine, 1, workflow="c", queue="two", delay_s=60)
    cancelled = add_runs(engine, 1, workflow="a", queue="two")
    settle(engine, cancelled, "cancelled")

    assert ids_of(page(engine)) == newest(queued + failed + waiting + cancelled)
    assert ids_of(page(engine, state=RunState.QUEUED)) == newest(queued)
    assert ids_of(page(engine, state=RunState.WAITING)) == waiting
    assert ids_of(page(engine, state=RunState.FAILED)) == newest(failed)
    assert ids_of(page(engine, state=RunState.CANCELLED)) == cancelled
    assert ids_of(page(engine, state=RunState.SUCCEEDED)) == []
    assert ids_of(page(engine, workflow="a")) == newest(queued + cancelled)
    assert ids_of(page(engine, state=RunState.FAILED, workflow="b")) == newest(failed)
    assert ids_of(page(engine, state=RunState.FAILED, workflow="a")) == []
    assert ids_of(page(engine, queue="two")) == newest(failed + waiting + cancelled)
    assert ids_of(page(engine, key="order-7")) == newest(failed)
    assert ids_of(page(engine, fingerprint="f1")) == newest(failed)
    assert ids_of(page(engine, state=RunState.FAILED, fingerprint="f2")) == []
    assert ids_of(page(engine, event=event_id_of(failed[0]))) == [failed[0]]


def test_since_and_until_bound_the_time_of_acceptance(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    now = datetime.now(UTC)
    minute = timedelta(minutes=1)

    assert ids_of(page(engine, since=now - minute, until=now + minute)) == ids
    assert ids_of(page(engine, since=now + minute)) == []
    assert ids_of(page(engine, until=now - minute)) == []


def test_a_filter_without_an_index_looks_at_so_many_rows_and_says_where_to_go_on(
    engine: Engine,
) -> None:
    wanted = add_runs(engine, 1, queue="rare")
    add_runs(engine, 25, queue="common")

    pages, cursor = [], None
    while True:
        found = page(engine, cursor, rows_max=10, queue="rare")
        pages.append(ids_of(found))
        cursor = found.next
        if cursor is None:
            break

    assert pages == [[], [], wanted]


def test_settled_runs_are_told_from_open_ones_in_one_question(engine: Engine) -> None:
    done, open_ = add_runs(engine, 2), add_runs(engine, 2)
    settle(engine, done, "succeeded")

    with open_autocommit(engine) as tx:
        assert read.settled(tx, [*done, *open_, UNKNOWN]) == set(done)


def plan_of(engine: Engine, wanted: RunQuery) -> str:
    """How the database finds the page: EXPLAIN of the statement that `page` sends."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        sent.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    with open_autocommit(engine) as tx:
        read.page(tx, wanted, limit=5)
    event.remove(engine, "before_cursor_execute", note)
    with open_autocommit(engine) as tx:
        rows = tx.exec_driver_sql("explain " + sent[0][0], sent[0][1])
        return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (RunQuery(state=RunState.FAILED, workflow="fulfil"), "runs_failed_idx"),
        (RunQuery(state=RunState.FAILED), "runs_unsuccessful_idx"),
        (RunQuery(state=RunState.CANCELLED), "runs_unsuccessful_idx"),
        (RunQuery(state=RunState.FAILED, fingerprint="f1"), "runs_fingerprint_idx"),
        (RunQuery(event=UNKNOWN), "runs_pkey"),
        (RunQuery(), "runs_pkey"),
    ],
)
def test_a_page_of_few_among_many_is_an_index_scan(
    engine: Engine, wanted: RunQuery, index: str
) -> None:
    ids = add_runs(engine, 2_000)
    settled_ = ids[:1_900]
    change_runs(engine, settled_, "state = 'succeeded', due_at = null, settled_at = now()")
    change_runs(engine, ids[:400], "state = 'failed', fingerprint = 'f' || (random() * 9)::int")
    change_runs(engine, ids[400:800], "state = 'cancelled'")
    with open_autocommit(engine) as tx:
        tx.execute(text("vacuum analyze runs"))

    plan = plan_of(engine, wanted)

    assert index in plan, plan
    assert "Seq Scan" not in plan


def test_runs_of_an_event_are_found_however_many_others_there_are(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    many = """
        insert into runs (id, event_id, account_id, minute, payload_bytes, started_at, settled_at,
            state, workflow, queue)
        select ('01000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, gen_random_uuid(),
            1, 1, 1, now(), now(), 'succeeded', 'w', 'q'
        from generate_series(1, 20000) n
    """
    first, last = runs_range(event_id_of(run_id))
    statement = ledger_rows._RUNS_OF.replace("%(first)s", "$1").replace("%(last)s", "$2")
    with open_autocommit(engine) as tx:
        tx.execute(text(many))
        tx.execute(text("analyze runs"))
        tx.execute(text("set plan_cache_mode = force_generic_plan"))  # as for an api
        tx.execute(text("set enable_sort = off"))  # as if what is sorted were much
        tx.exec_driver_sql(f"prepare runs_of as {statement}")
        plan = tx.exec_driver_sql(
            f"explain (analyze, buffers, format json) execute runs_of ('{{{first}}}', '{{{last}}}')"
        ).scalar_one()
        found = ledger_rows.runs_of(tx, [first])

    assert [run.id for run in found[first]] == [run_id]
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 20
