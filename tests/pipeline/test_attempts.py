"""Every execution of a transactional step is an attempt, and leaves nothing in its session."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.hands import PooledHands as Hands
from tests.support.wait import until
from veltrix import Event, transaction, workflow
from veltrix.pipeline.execute.coroutines.execution import Execution
from veltrix.pipeline.relay import due_rows
from veltrix.store.transactions import open_autocommit
from veltrix.store.transactions import transaction as open_transaction

calls: list[str] = []
DIE = "select pg_terminate_backend(pg_backend_pid())"
LEAVE = (
    "set timezone = 'Asia/Tokyo'",
    "set search_path = tenant",
    "set role other",
    "select set_config('app.tenant', 'a', false)",
    "create temp table scratch (x int)",
    "select pg_advisory_lock(42)",
    "listen gossip",
    "prepare question as select 1",
    "declare c cursor with hold for select 1",
)
LOOK = (
    "select current_setting('timezone'), current_setting('search_path'), "
    " current_user = session_user, coalesce(current_setting('app.tenant', true), ''),"
    " to_regclass('pg_temp.scratch') is null,"
    " (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),"
    " (select count(*) from pg_listening_channels()), (select count(*) from pg_cursors),"
    " (select count(*) from pg_prepared_statements where from_sql)"
)
CLEAN = ["UTC", '"$user", public', True, "", True, 0, 0, 0, 0]


@pytest.fixture(autouse=True)
def _tables(engine: Engine) -> Iterator[None]:
    calls.clear()
    with open_transaction(engine) as tx:
        tx.execute(text("create table effects (id text)"))
        tx.execute(text("create schema tenant"))
        tx.execute(text("create role other"))
    yield
    with open_transaction(engine) as tx:
        tx.execute(text("drop role other"))


def refuse_commits(engine: Engine, sqlstate: str = "P0001") -> None:
    """As ledgers do: debits and credits are compared at the commit."""
    with open_transaction(engine) as tx:
        tx.execute(
            text(
                "create function no() returns trigger language plpgsql as $$ begin"
                f" raise exception 'debits and credits differ' using errcode = '{sqlstate}';"
                " end $$"
            )
        )
        tx.execute(
            text(
                "create constraint trigger balanced after insert on effects deferrable initially"
                " deferred for each row when (new.id = 'bad') execute function no()"
            )
        )


def noted(engine: Engine) -> list[tuple[int, str]]:
    """(attempt, type) of the failed attempts."""
    with open_transaction(engine) as tx:
        rows = tx.execute(text("select attempt, type from failed_attempts order by id"))
        return [tuple(row) for row in rows]


def effects(engine: Engine) -> list[str]:
    with open_transaction(engine) as tx:
        return list(tx.execute(text("select id from effects order by id")).scalars())


def until_it_ends(engine: Engine, hands: Hands, run_id: str) -> tuple[Any, ...]:
    """Wake the run until it has ended; its state and reason."""
    for _ in range(20):
        if read_runs(engine, [run_id], "state")[0].state == "waiting":
            change_runs(engine, [run_id], "state = 'queued', due_at = now()")
            with open_transaction(engine) as tx:
                tx.execute(text("update failed_attempts set retry_delay_s = 0"))
        hands.run([run_id])
    return tuple(read_runs(engine, [run_id], "state, reason")[0])


@pytest.mark.parametrize("retries", [0, 2])
def test_a_step_that_ends_its_own_connection_stops_one_attempt_after_its_policy(
    engine: Engine, retries: int
) -> None:
    @transaction(retries=retries, backoff_s=0.01)
    def heavy(session: Session) -> None:
        calls.append("")
        session.execute(text("insert into effects values ('a')"))
        session.execute(text(DIE))

    @workflow(name="fulfil", retries=0)
    async def flow(_event: Event[Any]) -> None:
        await heavy()

    (run_id,) = add_runs(engine, 1)
    hands = Hands(engine, [flow])

    ended = until_it_ends(engine, hands, run_id)

    hands.close()
    assert ended == ("failed", "error")
    assert len(calls) == retries + 2
    assert noted(engine) == [(n + 1, "OperationalError") for n in range(retries + 2)]
    assert effects(engine) == []


@pytest.mark.parametrize("sqlstate", ["P0001", "23503"])
def test_what_is_refused_at_the_commit_fails_its_run_with_the_reason_and_no_other(
    engine: Engine, sqlstate: str
) -> None:
    @transaction(retries=1, backoff_s=0.01)
    def book(session: Session, what: str) -> str:
        calls.append(what)
        session.execute(text("insert into effects values (:id)"), {"id": what})
        return what

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> str:
        booked: str = await book(event.data)
        return booked

    refuse_commits(engine, sqlstate)
    good = [add_runs(engine, 1, data=f'"{n}"')[0] for n in range(5)]
    (bad,) = add_runs(engine, 1, data='"bad"')
    hands = Hands(engine, [flow])

    outcomes = hands.run([*good, bad])
    ended = until_it_ends(engine, hands, bad)

    hands.close()
    assert {outcomes[run_id] for run_id in good} == {"succeeded"}
    assert ended == ("failed", "error")
    assert effects(engine) == ["0", "1", "2", "3", "4"]
    assert [attempt for attempt, _ in noted(engine)] == [1, 2]
    assert calls.count("bad") == 3, "with the others, and by itself as often as it may"


class RescuedHands(Hands):
    """A relay looks for leases that are over when a commit was refused."""

    rescued: Sequence[str] = ()

    def rewind(self, executions: Sequence[Execution]) -> list[Execution]:
        with open_autocommit(self.link._engine) as tx:
            found = due_rows.scan(
                tx, [], hold_s=8.0, hold_s_max=300.0, poison_crashes_max=3, rescue=["orders"]
            )
        self.rescued = found.rescued if found is not None else ()
        return super().rewind(executions)


def test_a_long_step_whose_commit_is_refused_is_an_attempt_and_no_crash(engine: Engine) -> None:
    @transaction(retries=0)
    def book(session: Session) -> None:
        session.execute(text("insert into effects values ('bad')"))
        until(lambda: read_runs(engine, [run_id], "due_in")[0][0] < 0, what="the lease's end")

    @workflow(name="fulfil", retries=0)
    async def flow(_event: Event[Any]) -> None:
        await book()

    refuse_commits(engine, "P0001")
    (run_id,) = add_runs(engine, 1)
    hands = RescuedHands(engine, [flow], hold_s=1.0)

    outcomes = hands.run([run_id])

    hands.close()
    assert (outcomes, hands.rescued) == ({run_id: "failed"}, ())
    assert [attempt for attempt, _ in noted(engine)] == [1]


def test_a_step_may_think_as_long_as_its_own_limit(engine: Engine) -> None:
    @transaction(retries=0, timeout_s=60)
    def think(session: Session) -> str:
        calls.append("")
        session.execute(text("insert into effects values ('a')"))
        session.execute(text("select pg_sleep(0.1)"))
        end_at = time.monotonic() + 0.8
        while time.monotonic() < end_at:
            pass
        session.execute(text("insert into effects values ('b')"))
        return "done"

    @workflow(name="fulfil", retries=0)
    async def flow(_event: Event[Any]) -> None:
        await think()

    (run_id,) = add_runs(engine, 1)
    hands = Hands(engine, [flow], idle_s=0.5)

    assert hands.run([run_id]) == {run_id: "succeeded"}
    hands.close()
    assert len(calls) == 1
    assert effects(engine) == ["a", "b"]


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_step_leaves_in_its_session_is_gone_before_the_next(
    engine: Engine, is_shared: bool, fails: bool
) -> None:
    @transaction(retries=0)
    def leave(session: Session) -> None:
        for statement in LEAVE:
            session.execute(text(statement))
        if fails:
            raise ValueError("and that as well")

    @transaction(retries=0)
    def look(session: Session) -> list[Any]:
        return list(session.execute(text(LOOK)).one())

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> Any:
        return await (leave() if event.data == "leave" else look())

    first = [add_runs(engine, 1, data='"leave"')[0] for _ in range(2)]
    second = [add_runs(engine, 1, data='"look"')[0] for _ in range(2)]
    hands = Hands(engine, [flow])

    for run_ids in [first + second] if is_shared else [[run_id] for run_id in first + second]:
        hands.run(run_ids)

    hands.close()
    states = {row.state for row in read_runs(engine, first, "state")}
    assert states == {"failed" if fails else "succeeded"}
    assert [row.outcome for row in read_runs(engine, second, "outcome")] == [CLEAN, CLEAN]


def test_a_lock_that_a_step_took_for_its_session_is_nobodys_after_it(engine: Engine) -> None:
    @transaction(retries=0)
    def exclusive(session: Session) -> bool:
        return bool(session.execute(text("select pg_try_advisory_lock(42)")).scalar_one())

    @workflow(name="fulfil", retries=0)
    async def flow(_event: Event[Any]) -> bool:
        taken: bool = await exclusive()
        return taken

    hands, other = Hands(engine, [flow]), Hands(engine, [flow])
    for one in (hands, other):
        (run_id,) = add_runs(engine, 1)
        one.run([run_id])
        assert read_runs(engine, [run_id], "outcome")[0].outcome is True
    hands.close()
    other.close()


def test_a_journal_that_cannot_be_written_runs_a_step_again_but_not_for_ever(
    engine: Engine,
) -> None:
    @transaction(retries=0)
    def book(session: Session) -> None:
        calls.append("")
        session.execute(text("insert into effects values ('a')"))

    @workflow(name="fulfil", retries=0)
    async def flow(_event: Event[Any]) -> None:
        await book()

    with open_transaction(engine) as tx:
        tx.execute(
            text(
                "create function broken() returns trigger language plpgsql as $$ begin"
                " raise exception 'could not' using errcode = 'io_error'; end $$"
            )
        )
        tx.execute(
            text(
                "create trigger broken before insert on journal for each row"
                " when (new.output is not null) execute function broken();"
                "create trigger broken before update on runs for each row"
                " when (new.steps is not null) execute function broken()"
            )
        )
    (run_id,) = add_runs(engine, 1)
    hands = Hands(engine, [flow])

    ended = until_it_ends(engine, hands, run_id)

    hands.close()
    assert ended == ("failed", "error")
    assert len(calls) == 11
    assert [attempt for attempt, _ in noted(engine)] == list(range(1, 12))
    assert effects(engine) == []


def test_a_step_that_met_an_error_has_its_limit_all_the_same(engine: Engine) -> None:
    @transaction(retries=0, timeout_s=0.3)
    def go_on(session: Session) -> None:
        try:
            session.execute(text("select 1 / 0"))
        except DBAPIError:
            end_at = time.monotonic() + 5.0
            while time.monotonic() < end_at:
                pass

    @workflow(name="fulfil", retries=0)
    async def flow(_event: Event[Any]) -> None:
        await go_on()

    (run_id,) = add_runs(engine, 1)
    hands = Hands(engine, [flow])

    assert hands.run([run_id]) == {run_id: "failed"}
    hands.close()
    assert noted(engine) == [(1, "StepTimeout")]
