"""The books: fold what moved, recount what is closed, and say whether all is accounted for.

Two lines hold at every moment, per source, type and minute of acceptance: events `accepted = routed
+ unrouted`; runs `started = succeeded + failed + cancelled + open`. `unaccounted` is 0, or someone
is told.
"""

import time
from collections.abc import Callable
from datetime import datetime

import msgspec
from sqlalchemy import Engine

from veltrix.domain.states import RunState
from veltrix.operations.books.counter_rows import (
    UNROUTED_GROUPS_MAX,
    Recount,
    fold,
    has_deltas,
    lock_books,
    minutes_to_recount,
    recount,
)
from veltrix.operations.books.read import Summed, count, page, totals
from veltrix.pipeline.accept.ledger_rows import OVERFLOW_ACCOUNT
from veltrix.store.transactions import open_autocommit, retry_transient, transaction
from veltrix.telemetry import accounts as accounts_gauge
from veltrix.telemetry import logger, oldest_open_seconds, open_runs
from veltrix.telemetry import unaccounted as unaccounted_gauge

log = logger("books")

SHARE_MAX = 1 / 20  # of the time may be spent on measuring
_SETTLED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class EventCounts(msgspec.Struct, frozen=True):
    """Events: accepted = routed (they started runs) + unrouted (nobody subscribes)."""

    accepted: int
    routed: int
    unrouted: int


class RunCounts(msgspec.Struct, frozen=True):
    """Runs: started = succeeded + failed + cancelled + open; open = queued + running + waiting.

    The open ones are counted from rows, the others by counters: nothing is a subtraction.
    """

    started: int
    succeeded: int
    failed: int
    cancelled: int
    open: int
    queued: int
    running: int
    waiting: int


class BesideCounts(msgspec.Struct, frozen=True):
    """What is counted beside the books: it starts nothing."""

    duplicates: int
    refused: int
    dead_letters: int


class AccountBalance(msgspec.Struct, frozen=True):
    """The books of one source and type; None: refusals and dead letters that tell neither.

    `is_overflow`: of all sources and types that came when VELTRIX_ACCOUNTS_MAX had an account.
    """

    source: str | None
    type: str | None
    events: EventCounts
    runs: RunCounts
    beside: BesideCounts
    unaccounted: int
    is_overflow: bool = False


class Balance(msgspec.Struct, frozen=True):
    """The books at one moment of the database. They balance when `unaccounted` is 0.

    `accounts`: how many sources and types have books of their own.
    """

    as_of: datetime
    events: EventCounts
    runs: RunCounts
    beside: BesideCounts
    unaccounted: int
    accounts: int
    by: list[AccountBalance]


def fold_once(
    engine: Engine, list_max: int = 10_000, unrouted_groups_max: int = UNROUTED_GROUPS_MAX
) -> int:
    """Move up to `list_max` deltas into the counters; how many (0: none, or another process folds).

    One transaction: a delta is counted once, by whichever process, whenever one dies.
    """

    def _fold() -> int:
        with open_autocommit(engine) as look:
            if not has_deltas(look):
                return 0
        with transaction(engine) as tx:
            return fold(tx, list_max, unrouted_groups_max) if lock_books(tx) else 0

    return retry_transient(_fold)


def recount_once(
    engine: Engine,
    *,
    closed_minutes: int = 2,
    search_minutes: int = 60,
    minutes_max: int = 60,
    rows_max: int = 500_000,
    is_forced: bool = False,
) -> Recount:
    """Recount closed minutes from rows, mark and seal them.

    A minute is closed `closed_minutes` after its end, by the database's clock; it is recounted when
    it changed or is not sealed, with growing pauses unless `is_forced`. One call reads about
    `rows_max` rows, or one minute. Nothing is recounted while another process folds or recounts.
    What does not balance is logged as `books.unbalanced`.
    """

    def _recount() -> Recount:
        with transaction(engine, snapshot=True) as tx:
            if not lock_books(tx):
                return Recount()
            minutes = minutes_to_recount(
                tx,
                closed_minutes=closed_minutes,
                search_minutes=search_minutes,
                minutes_max=minutes_max,
                rows_max=rows_max,
                is_forced=is_forced,
            )
            return recount(tx, minutes) if minutes else Recount()

    found = retry_transient(_recount)
    if found.unbalanced:
        log.error("books.unbalanced", minutes=found.unbalanced, discrepancy=found.discrepancy)
    return found


def balance(engine: Engine, by: int = 100, skip: int = 0) -> Balance:
    """Both sides of the books in one snapshot, with the `by` accounts that need most attention.

    Those are the ones with most unaccounted, then most open, then most accepted, after the first
    `skip` of them. Totals cover all.
    """
    with transaction(engine, snapshot=True) as tx:
        books = totals(tx)
        shown = page(tx, limit=by, skip=skip) if by else []
        accounts = count(tx)
    return Balance(
        as_of=books.as_of,
        events=_events(books),
        runs=_runs(books),
        beside=_beside(books),
        unaccounted=books.unaccounted,
        accounts=accounts,
        by=[
            AccountBalance(
                source=account.source,
                type=account.type,
                events=_events(account),
                runs=_runs(account),
                beside=_beside(account),
                unaccounted=account.unaccounted,
                is_overflow=account.id == OVERFLOW_ACCOUNT,
            )
            for account in shown
        ],
    )


def measure(engine: Engine) -> None:
    """Set the gauges of the books from the database as it is now."""
    with transaction(engine, snapshot=True) as tx:
        books = totals(tx)
        accounts_gauge.set(count(tx))
    unaccounted_gauge.set(books.unaccounted)
    for state, runs in books.open.items():
        open_runs.labels(state=state).set(runs)
    oldest_open_seconds.set((books.as_of - (books.oldest_at or books.as_of)).total_seconds())


class Measuring:
    """Measures the books again and again, for `SHARE_MAX` of the time at most. For one thread.

    Every open run is counted from its row: of ten million that takes seconds.
    """

    def __init__(self, engine: Engine, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._monotonic = engine, monotonic
        self._again_at = monotonic()

    def once(self) -> None:
        """Measure, unless that was done lately for its cost."""
        began = self._monotonic()
        if began < self._again_at:
            return
        measure(self._engine)
        ended = self._monotonic()
        self._again_at = ended + (ended - began) / SHARE_MAX


def _events(books: Summed) -> EventCounts:
    return EventCounts(*(books.counted[name] for name in EventCounts.__struct_fields__))


def _beside(books: Summed) -> BesideCounts:
    return BesideCounts(*(books.counted[name] for name in BesideCounts.__struct_fields__))


def _runs(books: Summed) -> RunCounts:
    counted = {name: books.counted[name] for name in ("started", *map(str, _SETTLED))}
    return RunCounts(**counted, **books.open, open=sum(books.open.values()))
