"""The watch: leases, limits, and the runs of a list that have not begun. One tick at a time."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from tests.pipeline.conftest import Hands, hands
from tests.support.due_runs import add_runs, change_runs, hand_over, read_runs
from tests.support.hands import TestHands
from veltrix import Event, gather, now, step, transaction, workflow
from veltrix.pipeline.execute.batch import Batch
from veltrix.settings.fields import Settings
from veltrix.store.transactions import Link, make_engine
from veltrix.store.transactions import transaction as transaction_of
from veltrix.worker.child.watch import TICK_S, ChildWatch, give_up

__all__ = ["hands"]  # the fixture

calls: list[Any] = []


class Watched:
    """A hand and its watch, whose clock goes ahead when the test says so."""

    def __init__(self, url: str, child: TestHands, run_ids: list[str]) -> None:
        self.child, self.ahead_s = child, 0.0
        self.returned: list[tuple[str, list[str]]] = []
        made = make_engine(child.url, application="tests watch", statement_timeout_s=5.0)
        self.watch = ChildWatch(
            Settings.model_validate({"database_url": url}),
            worker_id="tests/1",
            node="tests",
            link=Link(made, give_up),
            async_steps=child.async_steps,
            alarm=child.alarm,
            stamp=lambda: None,
            monotonic=lambda: time.monotonic() + self.ahead_s,
            queues=["orders"],
            release="release 1",
            take_returned=lambda: self.returned.pop() if self.returned else None,
        )
        self.batch: Batch = child.claim(run_ids)
        self.watch.begin(self.batch)

    def hold(self, batch: Batch, handed_s: float) -> None:
        """Another list, which came as claimed, and of which each run has begun."""
        self.batch = batch
        for execution in batch.executions.values():
            execution.has_begun = True
        self.watch.begin(batch, handed_s)

    def tick(self, ahead_s: float) -> None:
        """One tick, so much later than it is."""
        self.ahead_s = ahead_s
        self.watch.once()

    def close(self) -> None:
        self.watch._link.close()


@pytest.fixture
def watched(database_url: str) -> Iterator[Callable[[TestHands, list[str]], Watched]]:
    made: list[Watched] = []

    def make(child: TestHands, run_ids: list[str]) -> Watched:
        calls.clear()
        made.append(Watched(database_url, child, run_ids))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_runs_that_have_not_begun_go_back_by_the_time_since_the_list_began(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    """Also where no single step is slow: there may be very many of them."""

    @step(retries=0)
    def work(name: str) -> None:
        calls.append(name)
        if len(calls) == 2:
            one.tick(0.1)
            assert len(one.batch.open_ids()) == 4
            one.tick(0.3)

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        await gather(work(str(event.event_id)), work(str(event.event_id)))

    run_ids = add_runs(engine, 4)
    one = watched(hands(flow), run_ids)
    outcomes = one.child.execute(one.batch)

    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded"] * 2 + ["lost"] * 2
    assert len(calls) == 4
    rows = read_runs(engine, run_ids, "state, due_in")
    assert [row.state for row in rows] == ["succeeded"] * 2 + ["queued"] * 2
    assert all(row[1] <= 0 for row in rows[2:])


def test_the_watch_does_not_wait_for_a_transaction_of_its_own_child(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    """A shared one holds the runs that go back until the step that it is in has ended."""
    waited_s: list[float] = []

    @transaction(retries=0)
    def work(_session: Session) -> None:
        calls.append(1)
        began = time.monotonic()
        for tick in range(1, 40):
            one.tick(0.3 + tick * TICK_S)
        waited_s.append(time.monotonic() - began)

    @workflow(name="fulfil")
    async def flow(_event: Event[Any]) -> None:
        await work()

    run_ids = add_runs(engine, 3)
    one = watched(hands(flow), run_ids)

    outcomes = one.child.execute(one.batch)

    assert max(waited_s) < 5.0
    assert [outcomes[run_id] for run_id in run_ids] == ["succeeded", "lost", "lost"]
    one.tick(4.0)
    rows = read_runs(engine, run_ids, "state, crashes, due_in")
    assert [row[0] for row in rows] == ["succeeded", "queued", "queued"]
    assert all(row[1] == 0 and row[2] <= 0 for row in rows[1:])


def test_no_step_begins_of_a_run_whose_lease_cannot_be_renewed(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    @step(retries=0)
    def work(number: int) -> None:
        calls.append(number)
        if number == 1:
            change_runs(engine, run_ids[:1], "state = 'queued', lease_token = null")
            one.tick(3.0)

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        await gather(*(work(number) for number in range(5)))

    run_ids = add_runs(engine, 1)
    one = watched(hands(flow, journal_write_s=60.0), run_ids)

    assert one.child.execute(one.batch) == {run_ids[0]: "lost"}
    assert calls == [0, 1]


class Kept:
    """An event loop that is kept until it is let go."""

    def __init__(self) -> None:
        self.is_kept, self.is_let_go = threading.Event(), threading.Event()

    def keep(self) -> None:
        self.is_kept.set()
        self.is_let_go.wait(20)


def in_itself(kept: Kept) -> None:
    kept.keep()


def in_a_task(kept: Kept) -> None:
    async def keep() -> None:
        kept.keep()
        await asyncio.sleep(0)

    calls.append(asyncio.get_running_loop().create_task(keep()))


def in_a_callback(kept: Kept) -> None:
    asyncio.get_running_loop().call_soon(kept.keep)


@pytest.mark.parametrize(
    ("where", "culprit"), [(in_itself, "holds"), (in_a_task, "holds"), (in_a_callback, "loop")]
)
def test_who_keeps_the_loop_is_the_one_who_overran(
    engine: Engine, hands: Hands, watched: Callable[..., Watched], where: Any, culprit: str
) -> None:
    """A step that cannot begin, or end, because another has the event loop overran nothing."""
    kept = Kept()
    found: list[Any] = []

    @step(retries=0, timeout_s=1)
    async def holds() -> None:
        await asyncio.sleep(0.05)
        where(kept)
        await asyncio.sleep(0.2)

    @step(retries=0, timeout_s=1)
    async def waits() -> None:
        await asyncio.sleep(0.2)

    @step(retries=0, timeout_s=600)
    def look() -> None:
        assert kept.is_kept.wait(10)
        now = time.monotonic()
        found.extend(one.watch._offender(one.batch, now + seconds) for seconds in (0.0, 4.0, 8.0))
        kept.is_let_go.set()

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        await gather(waits(), holds(), look(), return_exceptions=True)

    one = watched(hands(flow), add_runs(engine, 1))
    one.child.execute(one.batch)

    name = found[-1] if isinstance(found[-1], str) else found[-1].call.step.name
    assert (found[0], name) == (None, culprit)


def test_steps_that_wait_for_their_turn_have_overrun_nothing(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    """Many of them take turns on the loop, each in its time; those that have ended are not late."""
    found: list[Any] = []
    has_turn, may_go_on = threading.Semaphore(0), threading.Semaphore(0)

    @step(retries=0, timeout_s=1)
    async def brief(number: int) -> None:
        calls.append(number)
        has_turn.release()
        may_go_on.acquire(timeout=10)
        await asyncio.sleep(0)

    @step(retries=0, timeout_s=600)
    def look() -> None:
        for number in range(6):
            has_turn.acquire(timeout=10)
            found.append(one.watch._offender(one.batch, time.monotonic() + number * 1.5))
            may_go_on.release()

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        await gather(*(brief(number) for number in range(6)), look())

    one = watched(hands(flow), add_runs(engine, 1))
    one.child.execute(one.batch)

    assert found == [None] * 6


def test_a_step_that_takes_the_timer_of_its_list_still_ends_at_its_limit(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    @step(retries=0, timeout_s=0.2)
    def takes_the_timer() -> None:
        signal.alarm(0)
        ends_at = time.monotonic() + 20.0
        while time.monotonic() < ends_at:
            pass
        calls.append("never told")

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> None:
        await takes_the_timer()

    run_ids = add_runs(engine, 1)
    child = hands(flow)
    one = watched(child, run_ids)
    is_over = threading.Event()

    def tick() -> None:
        while not is_over.wait(TICK_S):
            one.tick(0.0)

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        assert child.execute(one.batch) == dict.fromkeys(run_ids, "failed")
    finally:
        is_over.set()
        ticking.join()

    (row,) = read_runs(engine, run_ids, "outcome")
    assert row.outcome["type"] == "StepTimeout"
    assert calls == []


@pytest.mark.parametrize(("handed_s", "later_s"), [(1.0, 0.3), (2.6, 0.2)])
def test_of_what_came_as_claimed_the_row_says_in_time_that_it_is_run_here(
    engine: Engine, hands: Hands, watched: Callable[..., Watched], handed_s: float, later_s: float
) -> None:
    """Where it is not over soon, and when a third of its hold is over."""

    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        pass

    child = hands(flow)
    one = watched(child, [])
    child.execute(child.receive(hand_over(engine)))
    message = hand_over(engine, 2)
    one.hold(child.receive(message), handed_s=handed_s)

    one.tick(0.0)
    assert read_runs(engine, message.run_ids, "state") == [("queued",)] * 2
    one.tick(later_s)
    columns = "state, attempt, worker_id, due_in > 7 as is_ahead"
    assert read_runs(engine, message.run_ids, columns) == [("running", 1, "tests/1", True)] * 2
    one.tick(6.0)

    assert child.execute(one.batch) == dict.fromkeys(message.run_ids, "succeeded")


def test_what_came_as_claimed_and_was_taken_away_is_not_begun(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    @workflow(name="fulfil")
    async def flow(event: Event[Any]) -> None:
        pass

    child = hands(flow)
    one = watched(child, [])
    child.execute(child.receive(hand_over(engine)))
    message = hand_over(engine, 2)
    one.hold(child.receive(message), handed_s=0.0)
    change_runs(engine, message.run_ids[:1], "lease_token = null")
    one.tick(3.0)

    outcomes = child.execute(one.batch)

    assert outcomes == {message.run_ids[0]: "lost", message.run_ids[1]: "succeeded"}


def test_what_the_parent_hands_back_is_due_at_the_next_tick(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    one = watched(hands(), [])
    message = hand_over(engine, 3)
    (token,) = set(read_runs(engine, message.run_ids, "lease_token::text"))
    one.returned.append((token[0], message.run_ids[:2]))

    one.tick(0.1)

    found = read_runs(engine, message.run_ids, "due_at <= now(), lease_token is null")
    assert found == [(True, True), (True, True), (False, False)]


def test_what_was_recorded_before_the_first_step_is_read_by_who_has_the_run_next(
    engine: Engine, hands: Hands, watched: Callable[..., Watched]
) -> None:
    @step(retries=0)
    def work(name: str, at: str) -> str:
        calls.append(name)
        if len(calls) == 1:
            one.tick(0.3)
        return at

    @workflow(name="fulfil", retries=0)
    async def flow(event: Event[Any]) -> str:
        return await work(str(event.event_id), now().isoformat())

    child = hands(flow)
    run_ids = add_runs(engine, 2)
    one = watched(child, run_ids)
    outcomes = child.execute(one.batch)
    one.tick(0.4)
    (left,) = [run_id for run_id in run_ids if outcomes[run_id] != "succeeded"]
    assert read_runs(engine, [left], "state, attempt") == [("queued", 1)]

    assert child.run([left]) == {left: "succeeded"}
    with transaction_of(engine) as tx:
        recorded = tx.exec_driver_sql(
            "select count(*) from journal where run_id = %s", (left,)
        ).scalar_one()
    assert recorded == 2
