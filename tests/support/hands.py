"""A worker child's work in this process: claim, execute and settle lists, without Celery."""

import math
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Engine as SqlEngine

from veltrix.authoring.workflows import Workflow
from veltrix.broker.message import HANDED, Message
from veltrix.pipeline.clock import DatabaseClock
from veltrix.pipeline.execute import claim as claims
from veltrix.pipeline.execute.batch import Batch
from veltrix.pipeline.execute.coroutines.execution import Execution, ExecutionLimits
from veltrix.pipeline.execute.engine import BatchExecutor
from veltrix.pipeline.execute.settle import settle
from veltrix.pipeline.execute.step_calls import Alarm, AsyncSteps
from veltrix.pipeline.execute.transact import Transactor
from veltrix.pipeline.handed_key import read_key
from veltrix.store.transactions import Link, make_engine
from veltrix.worker.child.handing import Handing, Sorted
from veltrix.worker.child.taking import Claimed, take
from veltrix.worker.jobs import ListJob

LIMITS: dict[str, Any] = {
    "output_bytes_max": 100_000,
    "error_chars_max": 2_000,
    "step_timeout_s": 5.0,
    "journal_write_s": 0.05,
    "deploy_grace_s": 600.0,
    "deploy_backoff_s": 10.0,
    "monotonic": time.monotonic,
    "jitter": random.random,
}


class TestHands:
    """Executes lists of runs with these workflows, under tokens of its own."""

    __test__ = False

    def __init__(
        self,
        engine: SqlEngine,
        workflows: Sequence[Workflow],
        *,
        code_version: str = "1",
        hold_s: float = 8.0,
        **limits: Any,
    ) -> None:
        self.url = engine.url.render_as_string(hide_password=False)
        self.workflows: Mapping[str, tuple[Workflow, str]] = {
            w.name: (w, code_version) for w in workflows
        }
        self.link = Link(make_engine(self.url, application="tests hand"), time.sleep)
        self.handing = Handing(
            DatabaseClock(time.monotonic, time.time, math.inf),
            lambda: self.link.call(read_key),
            lambda: self.link.opened,
            self.workflows,
            hold_s,
            time.monotonic,
        )
        self.on_claim: Callable[[], object] = lambda: None
        told = LIMITS | {"on_time": self.handing.heard, "hold_s": hold_s}
        self.limits, self.hold_s = ExecutionLimits(**(told | limits)), hold_s
        self.alarm = Alarm(time.monotonic)
        self.alarm.install()
        self.async_steps = AsyncSteps(time.monotonic)
        transactor = Transactor(
            lambda: make_engine(self.url, application="tests transactions"),
            alarm=self.alarm,
            worker_id="tests/1",
            rewind=self.rewind,
            wait=time.sleep,
            monotonic=time.monotonic,
            hold_s=hold_s,
        )
        self.engine = BatchExecutor(self.limits, self.alarm, self.async_steps, transactor)

    def claim(self, run_ids: Sequence[str], token: str | None = None) -> Batch:
        """A hand with those of the runs that could be claimed."""
        token = token or str(uuid.uuid4())
        pairs = [(run_id, run_id) for run_id in run_ids]
        claimed, past = claims.claim(self.link, token, "tests/1", pairs, self.hold_s)
        return Batch(token, claims.executions(claimed, past, self.workflows, self.limits))

    def receive(self, message: Message, *, is_redelivered: bool = False) -> Batch:
        """A hand with the runs of a message, begun or claimed."""
        body = msgspec.json.decode(message.body, type=tuple[Any, Any, dict[str, msgspec.Raw]])
        handed = body[2].get(HANDED)
        pairs = [(run_id, message.id) for run_id in message.run_ids]
        raw = {} if handed is None or is_redelivered else {message.id: bytes(handed)}
        job = ListJob(str(uuid.uuid4()), pairs, handed=raw)
        return self.take(job)

    def take(self, job: ListJob) -> Batch:
        """A hand with a list, as a worker child takes it up."""
        claimed, past, found = take(job, self.handing, self._claim)
        mine = [*claimed, *found.begun]
        executions = claims.executions(mine, past, self.workflows, self.limits)
        return Batch(job.token, executions, handed=found.tokens)

    def _claim(self, job: ListJob, found: Sorted) -> Claimed:
        asked = time.monotonic()
        self.on_claim()
        claimed, past = claims.claim(
            self.link,
            job.token,
            "tests/1",
            found.rest,
            self.hold_s,
            found.told,
            is_again=job.is_again,
        )
        if claimed:
            self.handing.heard(asked, claimed[0].now.timestamp())
        return claimed, past

    def execute(self, batch: Batch) -> dict[str, str]:
        """Outcome by run id."""
        self.engine.execute(batch, lambda ready: settle(self.link, batch.tokens, "tests/1", ready))
        outcomes = {id_: e.outcome for id_, e in batch.executions.items()}
        return outcomes | dict.fromkeys(batch.lost, "lost")

    def run(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Claim and execute."""
        return self.execute(self.claim(run_ids))

    def close(self) -> None:
        """Close the connections."""
        self.link.close()

    def rewind(self, old: Sequence[Execution]) -> list[Execution]:
        """As a worker child does it."""
        return claims.rewind(self.link, old, self.workflows, self.limits)


class PooledHands(TestHands):
    """As a worker child has them: a pool, and sessions that may be idle for `idle_s`."""

    __test__ = False

    def __init__(
        self,
        engine: SqlEngine,
        workflows: Sequence[Workflow],
        *,
        idle_s: float = 30.0,
        hold_s: float = 8.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(engine, workflows, hold_s=hold_s)
        alarm = Alarm(time.monotonic)
        alarm.install()
        self.sessions = make_engine(
            self.url,
            application="tests transactions",
            connections_max=2,
            statement_timeout_s=idle_s,
            is_tried=False,
            is_writer=True,
            is_of_authors=True,
        )
        transactor = Transactor(
            lambda: self.sessions,
            alarm=alarm,
            worker_id="tests/1",
            rewind=self.rewind,
            wait=self.pause,
            monotonic=monotonic,
            hold_s=self.hold_s,
        )
        self.engine = BatchExecutor(self.limits, alarm, self.async_steps, transactor)

    def pause(self, _seconds: float) -> None:
        """Nothing here is worth waiting for."""

    def close(self) -> None:
        super().close()
        self.sessions.dispose()
