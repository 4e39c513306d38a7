"""A database that answers and refuses: work is held, and no healthy run fails for it."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.cut import line_to
from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.hands import TestHands
from veltrix import Event, gather, sleep, step, workflow
from veltrix.pipeline.execute import claim as claims
from veltrix.pipeline.execute import journal_rows, lease_rows
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import Link, make_engine, open_autocommit, transaction

calls: list[str] = []
TOKEN = "00000000-0000-0000-0000-000000000001"


@step(retries=0)
def note(what: str) -> str:
    calls.append(what)
    return what


@workflow(name="fulfil")
async def two_steps(_event: Event[Any]) -> list[str]:
    return [await note("a"), await note("b")]


@workflow(name="fulfil")
async def a_step_a_month(_event: Event[Any]) -> None:
    for month in range(12):
        await note(str(month))
        await sleep(60)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def break_journal(engine: Engine, sqlstate: str, when: str = "") -> None:
    with transaction(engine) as tx:
        tx.execute(
            text(
                "create function broken() returns trigger language plpgsql as $$ begin"
                f" raise exception 'could not' using errcode = '{sqlstate}'; end $$"
            )
        )
        tx.execute(
            text(
                f"create trigger broken before insert on journal for each row {when}"
                " execute function broken()"
            )
        )


def mend_journal(engine: Engine) -> None:
    with transaction(engine) as tx:
        tx.execute(text("drop trigger broken on journal"))


def mending(engine: Engine, pauses: int, said: list[Any]) -> Callable[[float], object]:
    """A wait that mends the journal at its last pause."""
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        assert len(waited) <= pauses, f"tried again after it was mended: {said[-1]}"
        if len(waited) == pauses:
            mend_journal(engine)

    return wait


@pytest.mark.parametrize("sqlstate", ["58030", "42501", "XX002", "25006", "53100", "P0001"])
def test_what_cannot_be_journalled_now_is_held_and_no_step_is_run_again(
    engine: Engine, database_url: str, sqlstate: str
) -> None:
    run_ids = add_runs(engine, 4)
    hands = TestHands(engine, [two_steps])
    said: list[Any] = []
    made = make_engine(database_url, application="tests hand", is_hot=True)
    hands.link = Link(made, mending(engine, 4, said), say=said.append)
    break_journal(engine, sqlstate)

    outcomes = hands.run(run_ids)

    hands.close()
    assert set(outcomes.values()) == {"succeeded"}
    assert sorted(calls) == ["a"] * 4 + ["b"] * 4
    rows = read_runs(engine, run_ids, "state, crashes, alone")
    assert [tuple(row) for row in rows] == [("succeeded", 0, False)] * 4
    assert any(sqlstate in one for one in said if one)
    assert said[-1] is None


def test_a_crash_is_forgiven_when_the_run_has_got_on(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    hands = TestHands(engine, [a_step_a_month])

    for _ in range(4):
        change_runs(engine, [run_id], "state = 'queued', due_at = now()")
        held = hands.claim([run_id])
        with open_autocommit(engine) as tx:  # its node is preempted
            lease_rows.release(tx, held.token, [run_id], 0.0)
        assert hands.run([run_id]) == {run_id: "waiting"}
        assert tuple(read_runs(engine, [run_id], "crashes, alone")[0]) == (0, False)
        with transaction(engine) as tx:
            tx.execute(text("update journal set recorded_at = recorded_at - interval '1 hour'"))
    hands.close()


@pytest.mark.parametrize("sqlstate", ["55P03", "57014", "58030"])
def test_a_crash_that_cannot_be_forgiven_now_fails_no_run(engine: Engine, sqlstate: str) -> None:
    (run_id,) = add_runs(engine, 1)
    with transaction(engine) as tx:
        tx.execute(text("create sequence met"))
        tx.execute(
            text(
                "create function broken() returns trigger language plpgsql as $$ begin"
                " if nextval('met') = 1 then"
                f" raise exception 'could not' using errcode = '{sqlstate}'; end if;"
                " return new; end $$"
            )
        )
        tx.execute(
            text(
                "create trigger broken before update on runs for each row"
                " when (old.alone and not new.alone) execute function broken()"
            )
        )
    hands = TestHands(engine, [two_steps])
    held = hands.claim([run_id])
    with open_autocommit(engine) as tx:
        lease_rows.release(tx, held.token, [run_id], 0.0)

    outcomes = hands.run([run_id])

    hands.close()
    assert outcomes == {run_id: "succeeded"}
    assert calls == ["a", "b"]


def test_a_crash_is_not_forgiven_without_progress(engine: Engine) -> None:
    (run_id,) = add_runs(engine, 1)
    hands = TestHands(engine, [a_step_a_month])

    for _ in range(3):
        held = hands.claim([run_id])
        with open_autocommit(engine) as tx:
            lease_rows.release(tx, held.token, [run_id], 0.0)
    hands.close()

    assert tuple(read_runs(engine, [run_id], "crashes, alone")[0]) == (2, True)


def test_a_hand_that_failed_is_no_death_of_its_runs(engine: Engine) -> None:
    run_ids = add_runs(engine, 2)
    hands = TestHands(engine, [two_steps])
    held = hands.claim(run_ids)

    with open_autocommit(engine) as tx:
        freed = lease_rows.release(tx, held.token, run_ids, 0.0, is_death=False)

    assert freed == set(run_ids)
    rows = read_runs(engine, run_ids, "state, crashes, alone")
    assert [tuple(row) for row in rows] == [("queued", 0, False)] * 2
    assert set(hands.run(run_ids).values()) == {"succeeded"}
    hands.close()


def add_journals(engine: Engine, run_ids: list[str], entries: int, size: int) -> None:
    """Entries of `size` characters each, as attempts before this one left them."""
    with transaction(engine) as tx:
        tx.execute(
            text(
                "insert into journal (run_id, generation, position, kind, name, output, attempts)"
                " select cast(id as uuid), 0, n::text, 'step', 'note', to_json(repeat('x', :size)),"
                " 1 from unnest(cast(:ids as text[])) id, generate_series(1, :entries) n"
            ),
            {"ids": run_ids, "size": size, "entries": entries},
        )
    change_runs(engine, run_ids, "attempt = 1")


@pytest.mark.parametrize(("runs", "entries"), [(1, 1), (3, 40), (40, 3), (200, 7), (2, 700)])
def test_a_journal_is_read_whole_however_many_parts_it_takes(
    engine: Engine, runs: int, entries: int
) -> None:
    run_ids = add_runs(engine, runs)
    add_journals(engine, run_ids[::2], entries, 10)
    hands = TestHands(engine, [two_steps])

    claimed, past = claims.claim(hands.link, TOKEN, "w", [(i, i) for i in run_ids], 8.0)

    hands.close()
    assert len(claimed) == runs
    wanted = {str(n) for n in range(1, entries + 1)}
    assert all(past[run_id].entries.keys() == wanted for run_id in run_ids[::2])


def test_a_journal_that_cannot_be_read_in_one_statement_is_read_in_parts(
    engine: Engine, database_url: str
) -> None:
    run_ids = add_runs(engine, 20)
    add_journals(engine, run_ids, 6, 1_000_000)
    waits: list[float] = []
    made = make_engine(database_url, application="tests hand", statement_timeout_s=0.25)
    link = Link(made, waits.append)
    found = [type("C", (), {"run_id": run_id, "generation": 0})() for run_id in run_ids]

    past = link.call(lambda tx: journal_rows.past(tx, found))

    link.close()
    assert [len(past[run_id].entries) for run_id in run_ids] == [6] * 20
    assert waits == []


def test_a_list_takes_no_more_than_its_share_of_what_its_runs_have_done(engine: Engine) -> None:
    run_ids = add_runs(engine, 60)
    add_journals(engine, run_ids, 10, 100_000)
    hands = TestHands(engine, [two_steps])

    batch = hands.claim(run_ids)

    hands.close()
    assert 10 <= len(batch.executions) <= 30
    rows = read_runs(engine, run_ids, "id::text as id, state, attempt")
    given_back = [row for row in rows if row.id not in batch.executions]
    assert {(row.state, row.attempt) for row in given_back} == {("queued", 1)}


@pytest.mark.slow  # it takes 1.2 GB
def test_more_than_postgresql_takes_in_one_statement_is_written_in_parts(engine: Engine) -> None:
    output = "x" * 1_000_000

    @step
    async def fetch() -> str:
        return output

    @workflow(name="fulfil")
    async def wide(_event: Event[Any]) -> None:
        await gather(*(fetch() for _ in range(1_100)))

    (run_id,) = add_runs(engine, 1)
    hands = TestHands(engine, [wide], output_bytes_max=2**20)

    outcomes = hands.run([run_id])

    hands.close()
    assert outcomes == {run_id: "succeeded"}
    with transaction(engine) as tx:
        assert tx.execute(text(f"select count(*) from {JOURNAL_OF} j")).scalar_one() == 1_100


def test_a_value_that_ends_its_connection_each_time_fails_its_run_and_no_other(
    engine: Engine, database_url: str
) -> None:
    @step(retries=0)
    def make(size: int) -> str:
        return "x" * size

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> str:
        await make(event.data)
        await sleep(60)
        return ""

    with line_to(database_url) as line:
        good = [add_runs(engine, 1, data="5")[0] for _ in range(3)]
        (bad,) = add_runs(engine, 1, data="90000")
        hands = TestHands(engine, [flow])
        hands.link = Link(make_engine(line.url, application="tests hand"), lambda _seconds: None)
        line.hangs_up_on(b"x" * 80_000)

        outcomes = hands.run([*good, bad])

        hands.close()
    assert {outcomes[run_id] for run_id in good} == {"waiting"}
    assert tuple(read_runs(engine, [bad], "state, reason")[0]) == ("failed", "unstorable")
