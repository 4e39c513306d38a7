"""Evidence: when each attempt of a step began and ended, and with what arguments it was called."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from tests.pipeline.conftest import Hands
from tests.support.due_runs import add_runs, change_runs
from veltrix import Event, gather, step, transaction, workflow
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines.execution import Execution, PendingStep
from veltrix.pipeline.execute.settle import settle, size_of
from veltrix.store.journal_of import JOURNAL_OF
from veltrix.store.transactions import transaction as open_transaction

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def rows(engine: Engine, query: str) -> list[Any]:
    with open_transaction(engine) as tx:
        return list(tx.execute(text(query)))


def db_now(engine: Engine) -> float:
    return float(rows(engine, "select extract(epoch from clock_timestamp())::float8")[0][0])


# By position: when it began and ended, in seconds.
SPANS = f"""select position, extract(epoch from began_at)::float8 as began,
    extract(epoch from began_at)::float8 + took_ms / 1000.0::float8 as ended
    from {JOURNAL_OF} j order by 1"""


def spans(engine: Engine) -> dict[str, tuple[float, float]]:
    return {position: (began, ended) for position, began, ended in rows(engine, SPANS)}


@step(retries=0)
async def quote(carrier: str, seconds: float = 0.1) -> str:
    await asyncio.sleep(seconds)
    return carrier


@step(retries=0)
def pack(what: str) -> str:
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        pass
    return what


@transaction(retries=0)
def book(session: Session, what: str) -> str:
    session.execute(text("select pg_sleep(0.1)"))
    return what


def test_the_journal_knows_when_each_step_began_and_ended_by_the_databases_clock(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def one_after_another(event: Event[Any]) -> None:
        await pack("a")
        await quote("dhl")
        await book("b")

    before = db_now(engine)
    hands(one_after_another).run(add_runs(engine, 1))
    after = db_now(engine)

    packed, quoted, booked = spans(engine).values()
    assert before - 0.01 <= packed[0]
    assert packed[1] <= quoted[0] + 0.01
    assert quoted[1] <= booked[0] + 0.01
    assert booked[1] <= after + 0.01
    assert all(0.09 <= ended - began < 2.0 for began, ended in (packed, quoted, booked))


def test_parallel_steps_are_recorded_as_they_overlapped(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def parallel(event: Event[Any]) -> None:
        await gather(quote("dhl", 0.2), quote("ups", 0.3), quote("dpd", 0.4))

    hands(parallel).run(add_runs(engine, 1))

    found = spans(engine)
    began = [began for began, _ in found.values()]
    assert max(began) - min(began) < 0.1, "together"
    assert max(began) < min(ended for _, ended in found.values())
    took = [ended - began for began, ended in found.values()]
    assert took == sorted(took)
    assert took[0] >= 0.19


def test_a_step_that_is_written_late_ended_when_it_ended(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def first(event: Event[Any]) -> None:
        await pack(event.data)

    run_ids = [add_runs(engine, 1, data=f'"{n}"')[0] for n in range(3)]
    hands(first, journal_write_s=5.0).run(run_ids)

    each = sorted(spans_of_runs(engine))
    for (_, ended), (began, _) in pairwise(each):
        assert ended <= began + 0.01, "one child runs one sync step at a time"


def spans_of_runs(engine: Engine) -> list[tuple[float, float]]:
    return [(began, ended) for _, began, ended in rows(engine, SPANS)]


def test_a_failed_attempt_has_its_position_begin_duration_and_arguments(
    engine: Engine, hands: Hands
) -> None:
    @step(retries=0)
    async def ask(carrier: str, *, weight: float) -> str:
        await asyncio.sleep(0.05)
        if carrier == "ups":
            raise ValueError("no")
        return carrier

    @workflow(name="fulfil")
    async def shopping(event: Event[Any]) -> None:
        await gather(ask("dhl", weight=1.5), ask("ups", weight=2), return_exceptions=True)

    hands(shopping).run(add_runs(engine, 1))

    failed = rows(
        engine,
        "select position, arguments, took_ms,"
        " abs(extract(epoch from failed_at - began_at) * 1000 - took_ms)::float8 as off_ms"
        " from failed_attempts",
    )
    assert [(row.position, row.arguments) for row in failed] == [
        ("1.1.1", '[["ups"],{"weight":2}]')
    ]
    assert 40 <= failed[0].took_ms < 2_000
    assert failed[0].off_ms < 500
    kept = rows(engine, f"select position, arguments from {JOURNAL_OF} j order by 1")
    assert [tuple(row) for row in kept] == [
        ("1.0.1", '[["dhl"],{"weight":1.5}]'),
        ("1.1.1", '[["ups"],{"weight":2}]'),
    ]


def test_arguments_are_kept_to_their_bound_and_a_cut_one_says_so(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def wordy(event: Event[Any]) -> None:
        await quote("ä" * 100, 0.0)

    hands(wordy, arguments_bytes_max=50).run(add_runs(engine, 1))

    ((kept,),) = rows(engine, f"select arguments from {JOURNAL_OF} j")
    assert kept.startswith('[["äää')
    assert kept.endswith("… (and 163 bytes more)")
    assert len(kept.encode()) < 50 + 25


def test_no_arguments_are_kept_where_that_is_turned_off(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def quiet(event: Event[Any]) -> None:
        await quote("dhl", 0.0)

    hands(quiet, arguments_bytes_max=0).run(add_runs(engine, 1))

    assert [tuple(row) for row in rows(engine, f"select arguments from {JOURNAL_OF} j")] == [
        (None,)
    ]


def test_a_crash_is_an_attempt_and_takes_none_of_the_steps_retries(
    engine: Engine, hands: Hands
) -> None:
    @step(retries=1, backoff_s=0, backoff_s_max=0)
    def broken() -> None:
        calls.append("broken")
        raise ValueError("no")

    @workflow(name="fulfil")
    async def failing(event: Event[Any]) -> None:
        await broken()

    (run_id,) = add_runs(engine, 1)
    with open_transaction(engine) as tx:
        tx.execute(
            text(
                "insert into failed_attempts (run_id, generation, position, step, attempt, type,"
                " message, traceback, fingerprint, retry_delay_s, is_crash)"
                " values (:id, 0, '1', 'broken', 1, 'WorkerCrashed', '', '', '', 0, true)"
            ),
            {"id": run_id},
        )
    change_runs(engine, [run_id], "attempt = 1")
    batch = hands(failing)

    while batch.run([run_id]) != {run_id: "failed"}:
        change_runs(engine, [run_id], "state = 'queued', due_at = now()")

    assert calls == ["broken"] * 2, "the one attempt and its retry"
    failed = rows(engine, "select attempt, retry_delay_s is null from failed_attempts order by id")
    assert [tuple(row) for row in failed] == [(1, False), (2, False), (3, True)]


def test_what_is_written_in_parts_began_when_it_began_too(engine: Engine, hands: Hands) -> None:
    @step(retries=0)
    def big(number: int) -> str:
        return str(number) * 50_000

    @workflow(name="fulfil")
    async def bulky(event: Event[Any]) -> None:
        await gather(*(big(number) for number in range(5)))

    before = db_now(engine)
    (run_id,) = add_runs(engine, 1)
    batch = hands(bulky)
    claimed = batch.claim([run_id])
    batch.engine.execute(
        claimed,
        lambda ready: settle(batch.link, claimed.token, "tests/1", ready, bytes_max=60_000),
    )

    found = spans(engine)
    assert len(found) == 5
    assert all(before - 0.01 <= began <= db_now(engine) for began, _ in found.values())


class Told:
    """Writes down what the engine says of where it is."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, step: PendingStep) -> None:
        self.said.append(f"in {step.call.step.name} at {step.position}")

    def end(self) -> None:
        self.said.append("in none")

    def fly(self, step: PendingStep | None, flying: int) -> None:
        self.said.append(f"{flying} under way: {None if step is None else step.position}")


def test_where_a_child_is_is_told_at_each_begin_and_end_of_a_step(
    engine: Engine, hands: Hands
) -> None:
    @workflow(name="fulfil")
    async def each(event: Event[Any]) -> None:
        await pack("a")
        await book("b")
        await gather(quote("dhl", 0.05), quote("ups", 0.2))

    (run_id,) = add_runs(engine, 1)
    batch = hands(each)
    claimed = batch.claim([run_id])
    told = Told()

    batch.execute(Batch(claimed.token, claimed.executions.values(), told))

    assert told.said == [
        "in pack at 1",
        "in none",
        "in book at 2",
        "in none",
        "2 under way: 3.0.1",
        "2 under way: 3.1.1",
        "1 under way: 3.1.1",
        "0 under way: None",
    ]


def test_arguments_count_in_the_size_of_a_write(engine: Engine, hands: Hands) -> None:
    @workflow(name="fulfil")
    async def bulky(event: Event[Any]) -> None:
        await gather(*(quote(str(number) * 30_000, 0.0) for number in range(5)))

    (run_id,) = add_runs(engine, 1)
    batch = hands(bulky, arguments_bytes_max=64 * 1024)
    claimed = batch.claim([run_id])
    sizes: list[int] = []

    def write(ready: list[Execution]) -> list[str]:
        sizes.extend(size_of(one) for one in ready)
        return settle(batch.link, claimed.token, "tests/1", ready, bytes_max=100_000)

    batch.engine.execute(claimed, write)

    assert max(sizes) > 2 * 5 * 30_000, "as output, and as argument"
    assert len(spans(engine)) == 5
