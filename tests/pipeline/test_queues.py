"""Open runs follow their workflow to another queue; a queue that nobody serves is told."""

from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, text

from tests.support.accepting import subscribe, subscription
from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.workers import forget_workers, report
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.move import replay_now
from veltrix.pipeline.relay import queue_rows
from veltrix.pipeline.relay import queues as following
from veltrix.pipeline.relay.queues import LOOK_S, Following, Unattended
from veltrix.releases.subscription_rows import Subscription, release_of
from veltrix.store.loads import PRESENT_S
from veltrix.store.transactions import transaction

OLD = subscription("moved", "a", queue="old", code_version="A")
NEW = subscription("moved", "a", queue="new", code_version="B")
STATES = {
    "queued": "due_at = now() + interval '8 seconds', hand_overs = 1",
    "waiting": "state = 'waiting', due_at = now() + interval '2 days'",
    "running": "state = 'running', lease_token = gen_random_uuid(), due_at = now() + '8 s'",
}


class Clock:
    """Moved by batch."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def begin(engine: Engine, release: Subscription) -> None:
    subscribe(engine, release)
    report(engine, release.code_version, release_of([release]), [release.queue])


def queues_of(engine: Engine, run_ids: list[str]) -> list[str]:
    return [row.queue for row in read_runs(engine, run_ids, "queue")]


@pytest.mark.parametrize("state", STATES)
def test_open_runs_go_into_the_queue_that_their_workflow_has_now(
    engine: Engine, state: str
) -> None:
    ids = add_runs(engine, 3, workflow="moved", queue="old")
    change_runs(engine, ids, STATES[state])
    begin(engine, OLD)
    begin(engine, NEW)
    forget_workers(engine, "A")

    assert Following(engine).once() == 3
    rows = read_runs(engine, ids, "queue, state, hand_overs, due_in as due")
    assert {(row.queue, row.state, row.hand_overs) for row in rows} == {("new", state, 0)}
    is_due = [row.due <= 0 for row in rows]
    assert all(is_due) if state == "queued" else not any(is_due)


def test_workers_of_the_code_before_finish_what_is_in_their_queue(engine: Engine) -> None:
    ids = add_runs(engine, 2, workflow="moved", queue="old")
    begin(engine, OLD)
    begin(engine, NEW)
    duty = Following(engine)

    assert duty.once() == 0
    assert queues_of(engine, ids) == ["old", "old"]
    forget_workers(engine, "A")
    assert duty.once() == 2


def test_runs_of_other_workflows_stay_in_a_queue_that_is_still_theirs(engine: Engine) -> None:
    both = [subscription("stays", "b", queue="old", code_version="B"), NEW]
    begin(engine, OLD)
    subscribe(engine, *both)
    report(engine, "B", release_of(both), ["new", "old"])
    forget_workers(engine, "A")
    moved = add_runs(engine, 2, workflow="moved", queue="old")
    others = add_runs(engine, 2, workflow="stays", queue="old")
    retired = add_runs(engine, 2, workflow="nobodys", queue="old")

    assert Following(engine).once() == 2
    assert queues_of(engine, moved) == ["new"] * 2
    assert queues_of(engine, others + retired) == ["old"] * 4


def test_a_queue_is_walked_in_parts_and_looked_at_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PAGE_RUNS", 3)
    monkeypatch.setattr(following, "PAGES_MAX", 2)
    clock = Clock()
    duty = Following(engine, clock)
    begin(engine, NEW)
    ids = add_runs(engine, 10, workflow="moved", queue="old")
    add_runs(engine, 10, workflow="nobodys", queue="old")
    moved = [duty.once() for _ in range(5)]
    assert sum(moved[:3]) >= 10 - 3
    while duty.once():
        pass
    late = add_runs(engine, 1, workflow="moved", queue="old")
    clock.now += LOOK_S
    while duty.once():
        pass

    assert queues_of(engine, ids + late) == ["new"] * 11


def test_a_run_that_somebody_has_locked_is_left_to_the_next_look(engine: Engine) -> None:
    ids = add_runs(engine, 2, workflow="moved", queue="old")
    begin(engine, NEW)
    clock = Clock()
    duty = Following(engine, clock)
    with transaction(engine) as tx:
        tx.execute(text("select 1 from runs where id = :id for no key update"), {"id": ids[0]})
        assert duty.once() == 1
    clock.now += LOOK_S

    assert duty.once() == 1


def test_a_replayed_run_goes_into_the_queue_of_now(engine: Engine) -> None:
    ids = add_runs(engine, 2, workflow="moved", queue="old")
    (nobodys,) = add_runs(engine, 1, workflow="nobodys", queue="old")
    failed = "state = 'failed', due_at = null, settled_at = now(), reason = 'error'"
    change_runs(engine, [*ids, nobodys], failed)
    subscribe(engine, OLD)
    subscribe(engine, NEW)
    replay_now(engine, [*ids, nobodys], ReplayMode.BEGINNING, "fixed", "ops")

    assert queues_of(engine, ids) == ["new", "new"]
    assert queues_of(engine, [nobodys]) == ["old"]


def sample(queue: str) -> float | None:
    return REGISTRY.get_sample_value("veltrix_unserved_runs", {"queue": queue})


@pytest.mark.parametrize(
    "leave",
    [
        lambda engine: report(engine, "1", "r", ["alone"], seen_ago_s=PRESENT_S + 1),
        lambda engine: forget_workers(engine, "1"),
    ],
    ids=["silent", "gone"],
)
def test_a_queue_with_open_runs_that_nobody_serves_is_told_until_somebody_does(
    engine: Engine, leave: Callable[[Engine], None]
) -> None:
    add_runs(engine, 2, queue="alone")
    add_runs(engine, 1, queue="served")
    report(engine, "1", "r", ["alone"])
    report(engine, "2", "r", ["served", "idle"])
    duty = Unattended(engine)
    duty.once()
    assert duty.findings == {}
    leave(engine)
    duty.once()

    assert duty.findings == {"alone": "2 open runs, and no worker serves the queue"}
    assert (sample("alone"), sample("served")) == (2, None)
    report(engine, "3", "r", ["alone"])
    duty.once()
    assert (duty.findings, sample("alone")) == ({}, None)


def test_a_worker_that_said_goodbye_may_be_starting_again(engine: Engine) -> None:
    add_runs(engine, 1, queue="alone")
    report(engine, "1", "r", ["alone"], has_left=True, seen_ago_s=PRESENT_S - 5)
    with transaction(engine) as tx:
        assert queue_rows.unserved(tx) == []


def test_runs_of_an_unserved_queue_are_counted_up_to_a_bound(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_rows, "UNSERVED_COUNTED_MAX", 3)
    add_runs(engine, 5, queue="alone")
    with transaction(engine) as tx:
        (found,) = queue_rows.unserved(tx)

    assert found.told == "3 or more open runs, and no worker serves the queue"
