"""Waiting for outcomes: one look at the database for all requests that wait."""

import asyncio
from collections.abc import Callable, Collection, Sequence

from starlette.concurrency import run_in_threadpool

from app.api.problems import Problem
from app.telemetry import waiting_requests

POLL_S = 0.015


class OutcomeWatch:
    """Tells requests when their runs have an outcome. For one event loop.

    While anyone waits, all runs waited for are looked up in one query every `POLL_S`; while nobody
    waits, nothing is. `look_up` gives those of the ids that are settled.
    """

    def __init__(
        self, look_up: Callable[[Sequence[str]], Collection[str]], requests_max: int
    ) -> None:
        self._look_up, self._requests_max = look_up, requests_max
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._requests = 0
        self._polling: asyncio.Task[None] | None = None

    async def wait(self, run_id: str, wait_s: float) -> bool:
        """Whether the run has an outcome before `wait_s` is over.

        Raises a 429 Problem when too many requests wait already, and the database's errors.
        """
        if self._requests >= self._requests_max:
            raise Problem(
                429,
                "too-many-waiting",
                f"{self._requests} requests wait for outcomes here; ask again without wait_s",
                headers={"Retry-After": "1"},
            )
        outcome = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(outcome)
        self._count(1)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        try:
            await asyncio.wait_for(outcome, wait_s)
        except TimeoutError:
            return False
        finally:
            self._count(-1)
            self._waiting[run_id].discard(outcome)
            if not self._waiting[run_id]:
                del self._waiting[run_id]
        return True

    async def _poll(self) -> None:
        while self._waiting:
            ids = list(self._waiting)
            try:
                found = await run_in_threadpool(self._look_up, ids)
            except Exception as error:  # noqa: BLE001 - it is the answer of everyone who waits
                self._answer(ids, error)
            else:
                self._answer(found, None)
            await asyncio.sleep(POLL_S)

    def _answer(self, run_ids: Collection[str], error: Exception | None) -> None:
        for run_id in run_ids:
            for outcome in self._waiting.get(run_id, ()):
                if outcome.done():
                    continue
                if error is None:
                    outcome.set_result(None)
                else:
                    outcome.set_exception(error)

    def _count(self, change: int) -> None:
        self._requests += change
        waiting_requests.set(self._requests)
