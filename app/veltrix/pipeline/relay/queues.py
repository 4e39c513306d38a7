"""Queues: open runs follow their workflow to another queue; a queue that nobody serves is said."""

import time
from collections.abc import Callable
from functools import partial

from sqlalchemy import Engine

from veltrix.pipeline.relay import queue_rows
from veltrix.pipeline.relay.due_rows import queues_with_open_runs
from veltrix.pipeline.relay.queue_rows import QueuePage, Unserved
from veltrix.releases import subscription_rows
from veltrix.releases.rules import moves
from veltrix.store.transactions import open_autocommit, retry_transient
from veltrix.telemetry import logger, runs_moved, unserved_runs

log = logger("queues")

PAGE_RUNS = 1_000
PAGES_MAX = 20  # of one call; ask again at once while there is more
LOOK_S, LOOK_S_MAX = 5.0, 3_600.0
SAY_S = 60.0


class _Walk:
    """Through the open runs of one queue, from the beginning, again and again."""

    def __init__(self, wanted: dict[str, str], now: float) -> None:
        self.wanted, self.began, self.next_at = wanted, now, now
        self.after: tuple[str, str] | None = None
        self.pages = 0

    def note(self, page: QueuePage, now: float) -> None:
        """Go on after this page, or look again later: the rarer the longer, if that reads much."""
        self.after, self.pages = page.last, self.pages + 1
        if page.last is None:
            age_s = LOOK_S if self.pages == 1 else max(LOOK_S, now - self.began)
            self.next_at, self.pages = now + min(age_s, LOOK_S_MAX), 0


class Following:
    """Moves open runs into the queue of their workflow. For one thread.

    A release that gives a workflow another queue leaves runs where nobody will look for them.
    """

    def __init__(self, engine: Engine, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._monotonic = engine, monotonic
        self._walks: dict[str, _Walk] = {}

    def once(self) -> int:
        """Move some; how many. Ask again at once while it is not 0."""
        self._plan()
        read = moved = 0
        for queue, walk in self._walks.items():
            while read < PAGES_MAX and walk.next_at <= self._monotonic():
                page = retry_transient(partial(self._page, queue, walk))
                walk.note(page, self._monotonic())
                self._tell(queue, walk.wanted, page)
                read, moved = read + 1, moved + sum(page.moved.values())
        return moved if moved or read < PAGES_MAX else 1

    def _page(self, queue: str, walk: _Walk) -> QueuePage:
        with open_autocommit(self._engine) as tx:
            return queue_rows.move(tx, queue, walk.wanted, after=walk.after, limit=PAGE_RUNS)

    def _plan(self) -> None:
        with open_autocommit(self._engine) as tx:
            there = queues_with_open_runs(tx)
            wanted: dict[str, dict[str, str]] = {}
            if there:
                routed, former = subscription_rows.routed(tx), queue_rows.former(tx, there)
                wanted = moves(there, routed, former, queue_rows.servers(tx))
        for queue in [queue for queue in self._walks if queue not in wanted]:
            del self._walks[queue]
        for queue, of_workflows in wanted.items():
            walk = self._walks.get(queue)
            if walk is None or walk.wanted != of_workflows:
                self._walks[queue] = _Walk(of_workflows, self._monotonic())

    @staticmethod
    def _tell(queue: str, wanted: dict[str, str], page: QueuePage) -> None:
        for workflow, runs in page.moved.items():
            runs_moved.inc(runs)
            log.info("runs.moved", workflow=workflow, queue=queue, to=wanted[workflow], runs=runs)


class Unattended:
    """Finds queues with open runs that no worker serves, and says so. For one thread.

    `findings` may be read by others.
    """

    def __init__(self, engine: Engine, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._monotonic = engine, monotonic
        self._said: dict[str, float] = {}
        self.findings: dict[str, str] = {}

    def once(self) -> int:
        """Look once; 0."""
        with open_autocommit(self._engine) as tx:
            found = queue_rows.unserved(tx)
        now = self._monotonic()
        for one in found:
            unserved_runs.labels(one.queue).set(one.runs)
            if now - self._said.get(one.queue, float("-inf")) >= SAY_S:
                self._say(one, now)
        there = {one.queue for one in found}
        for queue in self._said.keys() - there:
            unserved_runs.remove(queue)
            log.info("queue.served", queue=queue)
        self._said = {queue: said for queue, said in self._said.items() if queue in there}
        self.findings = {one.queue: one.told for one in found}
        return 0

    def _say(self, one: Unserved, now: float) -> None:
        self._said[one.queue] = now
        cure = "start a worker with the workflows of this queue, or cancel their runs"
        log.warning("queue.unserved", queue=one.queue, runs=one.runs, cure=cure)
