"""A, B, A: which code routes; runs follow their workflow; a queue that nobody serves is told."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine

from tests.path.site import connect, event_of, post
from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.wait import until
from veltrix.dev.platform import Platform
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.move import replay_now
from veltrix.releases import subscription_rows
from veltrix.store.transactions import make_engine, transaction

A = {"VELTRIX_WORKFLOWS": "tests.path.deploy_a"}
B = {"VELTRIX_WORKFLOWS": "tests.path.deploy_b"}


class Release:
    """A platform whose workers have one release or the other."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.engine: Engine = make_engine(
            platform.database_url, application="tests", connections_max=3
        )
        self._sent = 0

    def start(self, name: str, env: dict[str, str]) -> None:
        """A worker of this release; ready when it returns."""
        self.platform.start(name, "worker", env)
        self.platform.wait_ready(name)

    def end(self, name: str) -> None:
        """As an operator does."""
        self.platform.terminate(name)
        self.platform.wait_ended(name)

    def queue(self) -> str | None:
        """Whose queue it is now."""
        with transaction(self.engine) as tx:
            return next((s.queue for s in subscription_rows.current(tx)), None)

    def wait_queue(self, queue: str, deadline_s: float = 15.0) -> None:
        """The release with this queue routes."""
        until(lambda: self.queue() == queue, deadline_s, f"{queue} to be what routes")

    def send(self, type_: str) -> list[str]:
        """The runs of one event, when they are settled."""
        self._sent += 1
        url = self.platform.processes["api-1"].url
        with closing(connect(url)) as connection:
            _, items = post(connection, [event_of(self._sent, type_) | {"data": 0}])
        ids = [run["id"] for run in items[0]["runs"]]
        self.wait(ids)
        return ids

    def unrouted(self) -> int:
        """How many events started nothing."""
        with transaction(self.engine) as tx:
            query = "select count(*) from events where unrouted"
            return int(tx.exec_driver_sql(query).scalar_one())

    def wait(self, ids: list[str], deadline_s: float = 20.0) -> None:
        """These runs have succeeded."""

        def done() -> bool:
            return {row.state for row in read_runs(self.engine, ids, "state")} <= {"succeeded"}

        until(done, deadline_s, "the runs to succeed")

    def routed_to(self, type_: str) -> list[str]:
        """The queues that a new event of this type goes into, when apis have seen what routes."""
        return [row.queue for row in read_runs(self.engine, self.send(type_), "queue")]

    def wait_routed(self, type_: str, queues: list[str]) -> None:
        """Apis route by it."""
        until(lambda: self.routed_to(type_) == queues, 5.0, f"{type_} to go into {queues}")


@pytest.fixture
def release(platform: Callable[..., Platform]) -> Iterator[Release]:
    """An api, a relay and no worker."""
    found = Release(platform(apis=1, workers=0, env={"VELTRIX_HOLD_S": "2"}))
    yield found
    found.engine.dispose()


def test_a_roll_back_takes_by_itself_and_a_straggler_takes_nothing_back(release: Release) -> None:
    release.start("worker-1", A)
    release.wait_routed("roll.a", ["q1"])
    release.start("worker-2", B)
    release.wait_routed("roll.b", ["q2"])
    release.platform.kill("worker-1")
    release.platform.wait_ended("worker-1")
    release.start("worker-1", A)  # crashed in the middle of the deploy
    for _ in range(10):
        assert release.routed_to("roll.a") == ["q2"]

    release.end("worker-2")
    release.wait_queue("q1")
    release.wait_routed("roll.a", ["q1"])
    assert release.routed_to("roll.b") == []
    unrouted = release.unrouted()
    assert unrouted > 0

    release.start("worker-2", B)
    release.end("worker-1")
    release.wait_queue("q2")
    release.wait_routed("roll.b", ["q2"])
    assert release.unrouted() >= unrouted, "nothing of the time between starts by itself"
    assert "workflow.rolled_back" in release.platform.logs("relay-1")


def test_open_and_replayed_runs_follow_and_meanwhile_their_queue_is_red(release: Release) -> None:
    release.start("worker-1", A)
    release.wait_queue("q1")
    asleep = add_runs(release.engine, 3, workflow="rolled", queue="q1", data="20")
    until(
        lambda: {r.state for r in read_runs(release.engine, asleep, "state")} == {"waiting"},
        what="the runs to sleep",
    )
    release.end("worker-1")
    queued = add_runs(release.engine, 5, workflow="rolled", queue="q1", data="0")
    failed = add_runs(release.engine, 2, workflow="rolled", queue="q1", data="0")
    is_failed = "state = 'failed', due_at = null, settled_at = now(), reason = 'error'"
    change_runs(release.engine, failed, is_failed)
    until(lambda: "q1" in unserved(release), 30.0, "the queue to be red")

    release.start("worker-2", B)
    replay_now(release.engine, failed, ReplayMode.BEGINNING, "fixed", "ops")
    release.wait(queued + failed + asleep, 40.0)
    rows = read_runs(release.engine, queued + failed + asleep, "queue")
    assert {row.queue for row in rows} == {"q2"}
    until(lambda: unserved(release) == {}, what="nothing to be red")


def unserved(release: Release) -> dict[str, str]:
    """What the relay says of queues that nobody serves, and stays ready."""
    port = release.platform.processes["relay-1"].port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        found: dict[str, str] = json.loads(answer.read())["unserved_queues"]
        return found
