"""The books: fold what moved, recount what is closed, and say whether all is accounted for.

Two lines hold at every moment, per source, type and minute of acceptance: events `accepted = routed
+ unrouted`; runs `started = succeeded + failed + cancelled + open`. `unaccounted` is 0, or someone
is told.
"""

from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import Engine

from app.domain.states import RunState
from app.store.balance import (
    Books,
    Recount,
    fold,
    has_deltas,
    lock_books,
    minutes_to_recount,
    names,
    read,
    recount,
)
from app.store.tables import COUNTED
from app.store.transactions import open_autocommit, retry_transient, transaction
from app.telemetry import logger, oldest_open_seconds, open_runs
from app.telemetry import unaccounted as unaccounted_gauge

log = logger("books")

_NOTHING = (0,) * len(COUNTED)


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
    """The books of one source and type; None: refusals and dead letters that tell neither."""

    source: str | None
    type: str | None
    events: EventCounts
    runs: RunCounts
    beside: BesideCounts
    unaccounted: int


class Balance(msgspec.Struct, frozen=True):
    """The books at one moment of the database. They balance when `unaccounted` is 0."""

    as_of: datetime
    events: EventCounts
    runs: RunCounts
    beside: BesideCounts
    unaccounted: int
    by: list[AccountBalance]


class _Account:
    """One account while it is added up."""

    __slots__ = ("counted", "discrepancy", "open")

    def __init__(self, counted: tuple[int, ...], discrepancy: int) -> None:
        self.counted = dict(zip(COUNTED, counted, strict=True))
        self.discrepancy = discrepancy
        self.open = {RunState.QUEUED: 0, RunState.RUNNING: 0, RunState.WAITING: 0}

    @property
    def unaccounted(self) -> int:
        """What the recounts found, and what the living books show beyond that.

        The open minutes are not recounted yet, but two differences show at once: events that are
        neither routed nor unrouted, and runs that are neither settled nor open rows.
        """
        c = self.counted
        is_open = sum(self.open.values())
        settled = c["succeeded"] + c["failed"] + c["cancelled"]
        events_astray = abs(c["accepted"] - c["routed"] - c["unrouted"])
        runs_astray = abs(c["started"] - settled - is_open)
        return max(self.discrepancy, events_astray + runs_astray)


def fold_once(engine: Engine, list_max: int = 10_000) -> int:
    """Move up to `list_max` deltas into the counters; how many (0: none, or another process folds).

    One transaction: a delta is counted once, by whichever process, whenever one dies.
    """

    def _fold() -> int:
        with open_autocommit(engine) as look:
            if not has_deltas(look):
                return 0
        with transaction(engine) as tx:
            return fold(tx, list_max) if lock_books(tx) else 0

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
    """Recount closed minutes from rows, mark and seal them, and set the gauges of the books.

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
    _measure(engine)
    return found


def balance(engine: Engine, by: int = 100) -> Balance:
    """Both sides of the books in one snapshot, with the `by` accounts that need most attention.

    Those are the ones with most unaccounted, then most open, then most accepted. Totals cover all.
    """
    with transaction(engine, snapshot=True) as tx:
        books = read(tx)
        accounts = _accounts(books)
        shown = sorted(accounts, key=lambda id_: _attention(accounts[id_]), reverse=True)[:by]
        named = names(tx, shown)
    return Balance(
        as_of=books.as_of,
        events=_events(accounts.values()),
        runs=_runs(accounts.values()),
        beside=_beside(accounts.values()),
        unaccounted=sum(account.unaccounted for account in accounts.values()),
        by=[_shown(named.get(id_, (None, None)), accounts[id_]) for id_ in shown],
    )


def _accounts(books: Books) -> dict[int, _Account]:
    accounts = {
        id_: _Account(counted, books.discrepancy[id_]) for id_, counted in books.counted.items()
    }
    for row in books.open:
        account = accounts.setdefault(row.account_id, _Account(_NOTHING, 0))
        account.open[RunState(row.state)] = row.count
    return accounts


def _attention(account: _Account) -> tuple[int, int, int]:
    return account.unaccounted, sum(account.open.values()), account.counted["accepted"]


def _shown(named: tuple[str | None, str | None], account: _Account) -> AccountBalance:
    return AccountBalance(
        source=named[0],
        type=named[1],
        events=_events([account]),
        runs=_runs([account]),
        beside=_beside([account]),
        unaccounted=account.unaccounted,
    )


def _sums(accounts: Collection[_Account], *columns: str) -> dict[str, int]:
    return {column: sum(a.counted[column] for a in accounts) for column in columns}


def _events(accounts: Collection[_Account]) -> EventCounts:
    return EventCounts(**_sums(accounts, "accepted", "routed", "unrouted"))


def _beside(accounts: Collection[_Account]) -> BesideCounts:
    return BesideCounts(**_sums(accounts, "duplicates", "refused", "dead_letters"))


def _runs(accounts: Collection[_Account]) -> RunCounts:
    states = {
        str(state): sum(a.open[state] for a in accounts)
        for state in (RunState.QUEUED, RunState.RUNNING, RunState.WAITING)
    }
    counted = _sums(accounts, "started", "succeeded", "failed", "cancelled")
    return RunCounts(open=sum(states.values()), **counted, **states)


def _measure(engine: Engine) -> None:
    with transaction(engine, snapshot=True) as tx:
        books = read(tx)
    accounts = _accounts(books)
    unaccounted_gauge.set(sum(account.unaccounted for account in accounts.values()))
    for state in (RunState.QUEUED, RunState.RUNNING, RunState.WAITING):
        open_runs.labels(state=str(state)).set(sum(a.open[state] for a in accounts.values()))
    oldest = min((row.oldest_started_at for row in books.open), default=books.as_of)
    oldest_open_seconds.set((books.as_of - oldest).total_seconds())
