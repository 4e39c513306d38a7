"""Waiting for outcomes: one look at the database for all requests that wait."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from fastapi import Query, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from veltrix.operations.runs.read import settled
from veltrix.store.transactions import open_autocommit
from veltrix.telemetry import waiting_requests
from veltrix.web.auth import LOCAL, Author
from veltrix.web.problems import Problem
from veltrix.web.services import Services, services_of

POLL_S = 0.015

WaitS = Annotated[
    float, Query(ge=0, description="Wait so many seconds for the outcome; 0: do not wait")
]


class OutcomeWatch:
    """Tells requests when their runs have an outcome. For one event loop.

    While anyone waits, all runs waited for are looked up in one query every `POLL_S`; while nobody
    waits, nothing is. `look_up` gives those of the ids that are settled; when `is_ending`, nobody
    waits any longer.
    """

    def __init__(
        self,
        look_up: Callable[[Sequence[str]], Collection[str]],
        requests_max: int,
        is_ending: Callable[[], bool],
    ) -> None:
        self._look_up, self._requests_max, self._is_ending = look_up, requests_max, is_ending
        self._waiting: dict[str, set[asyncio.Future[bool]]] = {}
        self._requests = 0
        self._requests_of: dict[str, int] = {}
        self._polling: asyncio.Task[None] | None = None

    @contextmanager
    def place(self, author: Author) -> Iterator[None]:
        """A place among those who wait. Raises a 429 Problem when there is none.

        A key has half of them at most, so that none keeps the others from waiting.
        """
        own = self._requests_of.get(author.name, 0)
        most = self._requests_max if author is LOCAL else max(1, self._requests_max // 2)
        if self._requests >= self._requests_max or own >= most:
            whose = "of yours " if own >= most else ""
            raise Problem(
                "too-many-waiting",
                f"{own if whose else self._requests} requests {whose}wait for outcomes here; ask"
                " again without wait_s",
                headers={"Retry-After": "1"},
            )
        self._count(author.name, 1)
        try:
            yield
        finally:
            self._count(author.name, -1)

    async def wait(self, run_id: str, wait_s: float, receive: Receive) -> bool:
        """Whether the run has an outcome before `wait_s` is over. For who has a place.

        False also as soon as this server ends, or the client, who is heard by `receive`, has gone:
        one that only sends no more gets its answer then. Raises the database's errors.
        """
        outcome = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(outcome)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({outcome, gone}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            return outcome.done() and outcome.result()
        finally:
            gone.cancel()
            self._waiting[run_id].discard(outcome)
            if not self._waiting[run_id]:
                del self._waiting[run_id]

    async def _poll(self) -> None:
        while self._waiting:
            ids = list(self._waiting)
            if self._is_ending():
                self._answer(ids, is_settled=False)
            else:
                await self._look(ids)
            await asyncio.sleep(POLL_S)

    async def _look(self, ids: Sequence[str]) -> None:
        try:
            found = await run_in_threadpool(self._look_up, ids)
        except Exception as error:  # noqa: BLE001 - it is the answer of everyone who waits
            self._answer(ids, is_settled=False, error=error)
        else:
            self._answer(found, is_settled=True)

    def _answer(
        self, run_ids: Collection[str], *, is_settled: bool, error: Exception | None = None
    ) -> None:
        for run_id in run_ids:
            for outcome in self._waiting.get(run_id, ()):
                if outcome.done():
                    continue
                if error is None:
                    outcome.set_result(is_settled)
                else:
                    outcome.set_exception(error)

    def _count(self, name: str, change: int) -> None:
        self._requests += change
        own = self._requests_of.pop(name, 0) + change
        if own:
            self._requests_of[name] = own
        waiting_requests.set(self._requests)


def outcomes_of(request: Request) -> OutcomeWatch:
    """The one watch of this api, made when the first request waits."""
    state = request.app.state
    if not hasattr(state, "outcomes"):
        services: Services = state.services
        look_up = partial(_settled, services.engine)
        state.outcomes = OutcomeWatch(
            look_up, services.settings.wait_requests_max, lambda: bool(state.is_leaving)
        )
    outcomes: OutcomeWatch = state.outcomes
    return outcomes


def check_wait(request: Request, wait_s: float) -> None:
    """Raises a 400 Problem when this server does not wait for so long."""
    services = services_of(request)
    if wait_s > services.settings.wait_s_max:
        raise Problem(
            "wait-too-long",
            f"wait_s is {wait_s:g}; this server waits for at most"
            f" {services.settings.wait_s_max:g} s",
        )


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _settled(engine: Engine, run_ids: Sequence[str]) -> Collection[str]:
    with open_autocommit(engine) as tx:
        return settled(tx, run_ids)
