"""The figures of the first page, read once for everybody who looks at it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from threading import Lock
from time import monotonic

import msgspec
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from veltrix.console.rendering import fragment
from veltrix.operations.books import overview
from veltrix.operations.books.books import Balance, balance
from veltrix.operations.books.overview import Latency, Minute, QueueRuns, WorkerChild
from veltrix.store.transactions import transaction

PAUSE_S = 1.0
SHARE_MAX = 1 / 20  # of the time may be spent on reading: a million open runs take a while to count
MINUTES = 60
WATCHERS_MAX = 100
_RATE_S = 15.0  # rates are of about so long
_ACCOUNTS = 8


class Figures(msgspec.Struct, frozen=True):
    """What the first page shows, as of nearly one moment; rates are None until two are read."""

    books: Balance
    accepted_per_s: float | None
    settled_per_s: float | None
    latency: Latency
    queues: list[QueueRuns]
    workers: list[WorkerChild]
    minutes: list[Minute]
    unseen_letters: int
    has_broker: bool

    @property
    def oldest_started_at(self) -> datetime | None:
        """Since when the oldest open run is open."""
        return min((queue.oldest_started_at for queue in self.queues), default=None)

    @property
    def chart(self) -> str:
        """The minutes as columns of numbers, in JSON: seconds since 1970, accepted, settled."""
        last = int(self.books.as_of.timestamp()) // 60
        by_minute = {m.minute: m for m in self.minutes}
        wanted = range(last - MINUTES + 1, last + 1)
        there = [by_minute.get(minute, Minute(minute, 0, 0, 0)) for minute in wanted]
        columns = [[m.minute * 60 for m in there]]
        columns += [[m.accepted for m in there], [m.settled for m in there]]
        return msgspec.json.encode(columns).decode()


class _Sample(msgspec.Struct, frozen=True):
    as_of: datetime
    accepted: int
    settled: int


class Live:
    """Reads the figures when somebody looks, and not more often than is good. Thread-safe."""

    def __init__(self, engine: Engine, is_broker_up: Callable[[], bool]) -> None:
        self._engine, self._is_broker_up = engine, is_broker_up
        self._lock = Lock()
        self._samples: deque[_Sample] = deque(maxlen=32)
        self._figures: Figures | None = None
        self._fragment: tuple[Figures, str] | None = None
        self._read_at, self._cost_s = 0.0, 0.0
        self._error: Exception | None = None
        self._failed_at = 0.0
        self._watchers = 0

    @property
    def has_room(self) -> bool:
        """Whether one more may watch."""
        return self._watchers < WATCHERS_MAX

    def figures(self) -> Figures:
        """The figures, a second old at most, or twenty times as old as it takes to read them."""
        there = self._figures
        # Nobody waits for a read who has figures: as many threads as watchers would be taken.
        if not self._lock.acquire(blocking=there is None):
            assert there is not None
            return there
        try:
            return self._fresh()
        finally:
            self._lock.release()

    def _fresh(self) -> Figures:
        began = monotonic()
        pause_s = max(PAUSE_S * 0.9, self._cost_s / SHARE_MAX)
        if self._figures is not None and began - self._read_at <= pause_s:
            return self._figures
        if self._error is not None and began - self._failed_at <= PAUSE_S:
            raise self._error.with_traceback(None)  # those who waited do not try it one by one
        try:
            self._figures = self._read()
        except Exception as error:
            self._error, self._failed_at = error, monotonic()
            raise
        self._error = None
        self._read_at = monotonic()
        self._cost_s = self._read_at - began
        return self._figures

    async def watch(self, may_go_on: Callable[[], bool]) -> AsyncIterator[str]:
        """The figures again and again, as server-sent events, until `may_go_on()` is False.

        It is asked in a thread, each time; a database that is away ends it as well, and browsers
        ask again by themselves.
        """
        self._watchers += 1
        try:
            while await run_in_threadpool(may_go_on):
                figures = await run_in_threadpool(self.figures)
                yield _event("figures", self._as_html(figures)) + _event("minutes", figures.chart)
                await asyncio.sleep(PAUSE_S)
        finally:
            self._watchers -= 1

    def _as_html(self, figures: Figures) -> str:
        if self._fragment is None or self._fragment[0] is not figures:
            self._fragment = figures, fragment("figures.html", figures=figures)
        return self._fragment[1]

    def _read(self) -> Figures:
        books = balance(self._engine, by=_ACCOUNTS)
        accepted_per_s, settled_per_s = self._rates(books)
        with transaction(self._engine, snapshot=True) as tx:
            return Figures(
                books=books,
                accepted_per_s=accepted_per_s,
                settled_per_s=settled_per_s,
                latency=overview.latency(tx),
                queues=overview.queues(tx),
                workers=overview.workers(tx),
                minutes=overview.minutes(tx, MINUTES),
                unseen_letters=overview.unseen_letters(tx),
                has_broker=self._is_broker_up(),
            )

    def _rates(self, books: Balance) -> tuple[float | None, float | None]:
        """Per second, since the oldest sample that is not older than `_RATE_S` or so."""
        runs = books.runs
        settled = runs.succeeded + runs.failed + runs.cancelled
        now = _Sample(books.as_of, books.events.accepted, settled)
        while self._samples and _seconds(self._samples[0], now) > max(_RATE_S, 3 * PAUSE_S):
            self._samples.popleft()
        self._samples.append(now)
        first = self._samples[0]
        passed_s = _seconds(first, now)
        if passed_s <= 0:
            return None, None
        # A replay takes its run back out of the settled ones.
        return (
            max(0, now.accepted - first.accepted) / passed_s,
            max(0, now.settled - first.settled) / passed_s,
        )


def _seconds(since: _Sample, until: _Sample) -> float:
    return (until.as_of - since.as_of).total_seconds()


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"
