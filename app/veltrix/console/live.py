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

from veltrix.console.alarms import alarms
from veltrix.console.figures import MINUTES, Figures
from veltrix.console.rendering import fragment
from veltrix.doctor.watch.report import read_report
from veltrix.operations.books import overview
from veltrix.operations.books.books import Balance, balance
from veltrix.operations.failures.read_urgent import urgent
from veltrix.operations.runs.read_pace import paces
from veltrix.store.transactions import transaction

PAUSE_S = 1.0
SHARE_MAX = 1 / 20  # of the time may be spent on reading: a million open runs take a while to count
MOVES_PAUSE_S = 2.0  # a list is read again at most so often
WATCHERS_MAX = 100
_RATE_S = 15.0  # rates are of about so long
_ACCOUNTS = 8


class _Sample(msgspec.Struct, frozen=True):
    as_of: datetime
    accepted: int
    settled: int


class Rates:
    """Per second, of the last 15 s; of as long as figures take to be read where that is longer."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=32)

    def with_these(self, books: Balance) -> tuple[float | None, float | None]:
        """Accepted events and settled runs; None for the first books there are."""
        runs = books.runs
        settled = runs.succeeded + runs.failed + runs.cancelled
        now = _Sample(books.as_of, books.events.accepted, settled)
        self._samples.append(now)
        # The one before is kept, however old: with figures that take long there is no other.
        while len(self._samples) > 2 and _seconds(self._samples[1], now) > _RATE_S:
            self._samples.popleft()
        first = self._samples[0]
        passed_s = _seconds(first, now)
        if passed_s <= 0:
            return None, None
        # A replay takes its run back out of the settled ones.
        return (
            max(0, now.accepted - first.accepted) / passed_s,
            max(0, now.settled - first.settled) / passed_s,
        )


class Live:
    """Reads the figures when somebody looks, and not more often than is good. Thread-safe."""

    def __init__(self, engine: Engine, is_broker_up: Callable[[], bool]) -> None:
        self._engine, self._is_broker_up = engine, is_broker_up
        self._lock = Lock()
        self._rates = Rates()
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

    async def moves(self, may_go_on: Callable[[], bool]) -> AsyncIterator[str]:
        """An event whenever something moved in the books, for lists to be read again; as `watch`.

        Each move is told twice: failure groups are counted a moment after their failures.
        """
        self._watchers += 1
        known, is_told = None, True
        yield ": lists that move\n\n"
        try:
            while await run_in_threadpool(may_go_on):
                books = (await run_in_threadpool(self.figures)).books
                now = (books.events, books.runs, books.beside)
                has_moved = known is not None and now != known
                if has_moved or not is_told:
                    yield _event("moved", "yes")
                known, is_told = now, not has_moved
                await asyncio.sleep(MOVES_PAUSE_S)
        finally:
            self._watchers -= 1

    def _as_html(self, figures: Figures) -> str:
        if self._fragment is None or self._fragment[0] is not figures:
            self._fragment = (
                figures,
                fragment("figures.html", figures=figures, alarms=alarms(figures)),
            )
        return self._fragment[1]

    def _read(self) -> Figures:
        books = balance(self._engine, by=_ACCOUNTS)
        accepted_per_s, settled_per_s = self._rates.with_these(books)
        with transaction(self._engine, snapshot=True) as tx:
            return Figures(
                books=books,
                accepted_per_s=accepted_per_s,
                settled_per_s=settled_per_s,
                paces=paces(tx),
                urgent=urgent(tx),
                queues=overview.queues(tx),
                workers=overview.workers(tx),
                minutes=overview.minutes(tx, MINUTES),
                unseen_letters=overview.unseen_letters(tx),
                has_broker=self._is_broker_up(),
                watch=read_report(tx),
            )


def _seconds(since: _Sample, until: _Sample) -> float:
    return (until.as_of - since.as_of).total_seconds()


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"
