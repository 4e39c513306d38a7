"""Accept: events become durable, with the runs they start, and only then get their receipts.

One thread writes. It takes everything that waits, up to the list's limits, commits it with one
statement and answers all of it; what arrives meanwhile is the next list. It never waits to fill it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from veltrix.domain.due import DueRun, Lease
from veltrix.domain.ids import EventIds
from veltrix.pipeline.accept import ledger_rows
from veltrix.pipeline.accept.accounts import Accounts
from veltrix.pipeline.accept.event_list import AcceptList, Answer, Submission, unavailable
from veltrix.pipeline.accept.ledger_rows import UNKNOWN_ACCOUNT
from veltrix.pipeline.accept.new_rows import Inserting
from veltrix.pipeline.accept.receipts import EventRefused
from veltrix.pipeline.accept.requests import Request, parts_of, settle
from veltrix.pipeline.accept.routing import RoutingTable
from veltrix.pipeline.clock import DatabaseClock
from veltrix.releases import subscription_rows
from veltrix.settings.fields import Settings
from veltrix.store.transactions import is_away, open_autocommit, retry_transient
from veltrix.telemetry import (
    accept_list_events,
    accept_seconds,
    clock_offset_seconds,
    events_accepted,
    events_duplicate,
    events_refused,
    logger,
    subscriptions_read,
)

COUNT_S = 0.5  # how long counts beside the books may wait to be written together

_log = logger("accept")


class Acceptor:
    """A writer. `start` it; `submit` from an event loop, `accept` from anywhere.

    `new_ids` gives events their ids, by the database's clock; `unix_ms` is this machine's, which is
    only compared with it. `take_credit(queue, n)` says how many of n runs may be hinted to the
    relay now, and `hint` receives those that were committed. It holds `waiting_bytes_max` at most,
    and commits `list_bytes_max` together. It is connected also when it has nothing to write, if it
    `is_kept_ready`.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        new_ids: EventIds,
        unix_ms: Callable[[], int],
        take_credit: Callable[[str, int], int],
        hint: Callable[[list[DueRun]], None],
        *,
        name: str = "accept",
        waiting_bytes_max: int | None = None,
        list_bytes_max: int | None = None,
        is_kept_ready: bool = True,
    ) -> None:
        self._engine, self._settings = engine, settings
        self._waiting_bytes_max = waiting_bytes_max or settings.accept_waiting_bytes_max
        self._list_bytes_max = list_bytes_max or settings.accept_list_bytes_max
        self._is_kept_ready, self._is_away = is_kept_ready, False
        self.new_ids = new_ids
        self._clock = DatabaseClock(
            monotonic, lambda: unix_ms() / 1000, settings.clock_offset_s_max
        )
        self._take_credit, self._hint = take_credit, hint
        self._waiting: SimpleQueue[Request | None] = SimpleQueue()
        self._lock = Lock()
        self._waiting_events = self._waiting_bytes = self._refused_early = 0
        self._is_stopping = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        # Below: the writer thread's own.
        self._left: Request | None = None
        self._connection: Connection | None = None
        self._accounts, self._inserting = Accounts(settings.accounts_max), Inserting()
        self._routes: list[subscription_rows.Subscribed] = []
        self._routing = RoutingTable(())
        self._routing_read_at: float | None = None
        self._beside: dict[int, tuple[int, int]] = {}
        self._counted_at = monotonic()
        # For any thread: why this machine's clock is not fit, as of the last look.
        self.clock_trouble: str | None = None

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Answer all that waits, refuse what comes later, and end the thread."""
        self.begin_to_stop()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether what waits will be answered."""
        return self._thread.is_alive()

    def begin_to_stop(self) -> None:
        """As `stop`, without waiting for the end."""
        with self._lock:
            if not self._is_stopping:
                self._is_stopping = True
                self._waiting.put(None)

    @property
    def is_writing(self) -> bool:
        """Whether its thread lives and it would write what comes now, as far as it knows."""
        is_ready = self._connection is not None or not self._is_kept_ready
        return self.is_alive and is_ready and not self._is_away

    @property
    def waiting(self) -> tuple[int, int]:
        """Events that wait for their commit, and their bytes."""
        return self._waiting_events, self._waiting_bytes

    def submit(self, submissions: Sequence[Submission]) -> "asyncio.Future[list[Answer]]":
        """A future of the answers, in the order of the submissions; for the running event loop.

        Each answer is a Receipt, the EventRefused that says why not, or AcceptUnavailable for one
        that is to be sent again though others were taken. The future raises AcceptUnavailable when
        none was taken, and so does this method when too much waits already.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Answer]] = loop.create_future()
        self._enqueue(Request(submissions, future, loop))
        return future

    def accept(self, submissions: Sequence[Submission]) -> list[Answer]:
        """As `submit`, for a thread without an event loop: returns the answers."""
        future: Future[list[Answer]] = Future()
        self._enqueue(Request(submissions, future, None))
        return future.result()

    def count_refused(self, count: int) -> None:
        """Count events refused before they came here, beside the books. Costs no query now."""
        with self._lock:
            self._refused_early += count

    def _enqueue(self, request: Request) -> None:
        events = len(request.submissions)
        with self._lock:
            if self._is_stopping:
                raise unavailable("this server is shutting down")
            is_full = (
                self._waiting_events + events > self._settings.accept_waiting_events_max
                or self._waiting_bytes + request.bytes > self._waiting_bytes_max
            )
            if is_full and self._waiting_events:
                raise unavailable("too many events wait for the database")
            self._waiting_events += events
            self._waiting_bytes += request.bytes
            self._waiting.put(request)

    def _run(self) -> None:
        if self._is_kept_ready:
            self._refresh()
        while (taken := self._take()) is not None:
            if taken:
                self._accept(taken)
            elif self._is_kept_ready or self._is_away:
                self._refresh()
            self._count()
        self._count(is_last=True)
        self._disconnect()

    def _take(self) -> list[Request] | None:
        """All that waits, up to the list's limits; empty after a while without; None at the end."""
        try:
            request = self._left or self._waiting.get(timeout=COUNT_S)
        except Empty:
            return []
        self._left = None
        if request is None:
            return None
        taken = [request]
        events, size = len(request.submissions), request.bytes
        try:
            while (request := self._waiting.get_nowait()) is not None:
                events, size = events + len(request.submissions), size + request.bytes
                if events > self._settings.accept_list_events_max or size > self._list_bytes_max:
                    self._left = request
                    return taken
                taken.append(request)
        except Empty:
            return taken
        self._waiting.put(None)  # the end: after what was taken
        return taken

    def _accept(self, taken: list[Request]) -> None:
        submissions = [s for request in taken for s in request.submissions]
        answers: list[Answer] = []
        for part in parts_of(submissions, self._settings):
            answers += self._write(part)
        with self._lock:
            self._waiting_events -= len(submissions)
            self._waiting_bytes -= sum(request.bytes for request in taken)
        accept_list_events.observe(len(submissions))
        accept_seconds.observe(monotonic() - taken[0].since)
        settle(taken, answers)

    def _write(self, submissions: Sequence[Submission]) -> list[Answer]:
        """Commit these; one answer each, whatever happens."""
        try:
            self._read_routing()
            if (trouble := self._clock.trouble) is not None:
                return [unavailable(trouble)] * len(submissions)
            written = AcceptList(
                submissions,
                self._routing,
                self.new_ids,
                self._clock.unix_ms(),
                self._take_credit,
                inserting=self._inserting,
                lease=self._lease(),
                handed_bytes_max=self._settings.handed_bytes_max,
                is_unrouted_refused=self._settings.refuse_unrouted,
            )
        except Exception as error:  # noqa: BLE001 - the thread must live
            self._lose_connection(error, len(submissions))
            return [unavailable("the database cannot be reached now")] * len(submissions)
        try:
            self._commit(written)
        except Exception as error:  # noqa: BLE001 - nobody may wait for ever
            self._lose_connection(error, len(submissions))
        if runs := written.hinted_runs():
            self._hint(runs)
        answers = written.answers()
        self._note(answers, written)
        return answers

    def _lease(self) -> Lease | None:
        """For the runs of the next list that are handed over as claimed; None: none is."""
        hold_s = self._settings.hold_s
        is_certain = self._clock.spread_s <= hold_s / 8
        if not (is_certain and self._settings.handed_bytes_max):
            return None
        return Lease(self.new_ids.token(), self._clock.unix_ms() + round(hold_s * 500))

    def _commit(self, written: AcceptList) -> None:
        """Write a list, on a second connection if the first one turns out to be dead."""
        hold_s = self._settings.hold_s
        try:
            written.write(self._connected(), self._accounts, hold_s)
        except DBAPIError as error:
            if not is_away(error):
                raise
            self._disconnect()
            written.write(self._connected(), self._accounts, hold_s)

    def _refresh(self) -> None:
        """Be ready for the next list, so that it need not wait for a connection or for routing."""
        try:
            self._read_routing()
        except Exception as error:  # noqa: BLE001 - the thread must live
            _log.warning("accept.database_away", events=0, error=_line(error))
            self._is_away = True
            self._disconnect()

    def _connected(self) -> Connection:
        """The connection. A new one may lead to a database that never heard of the last seconds.

        After a failover or a restore an account's id may be another account's: ids are found anew,
        and so is the routing.
        """
        if self._connection is None:
            self._connection = open_autocommit(self._engine)
            self._is_away = False
            self._routing_read_at = None
            self._clock.forget()
            self._accounts.forget()
            counts = self._beside.values()
            self._beside = {}
            for duplicates, refused in counts:
                self._count_beside(UNKNOWN_ACCOUNT, duplicates, refused)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def _lose_connection(self, error: Exception, events: int) -> None:
        if is_away(error):
            _log.warning("accept.database_away", events=events, error=_line(error))
        else:
            _log.error("accept.failed", events=events, exc_info=error)
        self._is_away = True
        self._disconnect()

    def _read_routing(self) -> None:
        """Look at the subscriptions and the clock again, if the last look is too long ago."""
        now = monotonic()
        read_at = self._routing_read_at
        is_fresh = read_at is not None and now - read_at < self._settings.subscriptions_cache_s
        if is_fresh and not self._clock.has_jumped:
            return
        try:
            rows = subscription_rows.routes(self._connected())
        except DBAPIError as error:
            if not is_away(error):
                raise
            self._disconnect()  # it died while it was idle
            rows = subscription_rows.routes(self._connected())
        self._read_clock(self._connected())
        if rows != self._routes:
            self._routes = rows
            self._routing = RoutingTable((row.workflow, row.queue, row.types) for row in rows)
        self._routing_read_at = now
        subscriptions_read.set(len(rows))

    def _read_clock(self, tx: Connection) -> None:
        before = monotonic()
        database_s = ledger_rows.unix_s(tx)
        self._clock.learn(before, database_s, monotonic())
        clock_offset_seconds.set(self._clock.offset_s or 0.0)
        trouble, self.clock_trouble = self.clock_trouble, self._clock.trouble
        if self.clock_trouble is not None and trouble is None:
            _log.error("clock.wrong", error=self.clock_trouble)
        elif trouble is not None and self.clock_trouble is None:
            _log.info("clock.right")

    def _note(self, answers: list[Answer], written: AcceptList) -> None:
        duplicates = refused = 0
        for account, (more_duplicates, more_refused) in written.beside().items():
            self._count_beside(account, more_duplicates, more_refused)
            duplicates, refused = duplicates + more_duplicates, refused + more_refused
        events_accepted.inc(written.accepted)
        if self._accounts.is_full:
            self._accounts.count_overflowed(written.overflowed)
        if duplicates:
            events_duplicate.inc(duplicates)
        for answer in answers if refused else ():
            if isinstance(answer, EventRefused):
                events_refused.labels(answer.word).inc()

    def _count_beside(self, account: int, duplicates: int, refused: int) -> None:
        had = self._beside.get(account, (0, 0))
        self._beside[account] = (had[0] + duplicates, had[1] + refused)

    def _count(self, *, is_last: bool = False) -> None:
        """Write the counts beside the books, when some are old enough and the database is there."""
        if not is_last and monotonic() - self._counted_at < COUNT_S:
            return
        self._counted_at = monotonic()
        with self._lock:
            early, self._refused_early = self._refused_early, 0
        if early:
            self._count_beside(UNKNOWN_ACCOUNT, 0, early)
        if not self._beside:
            return
        try:
            connection = self._connected()  # a new one changes whose counts these are
            counts = [(account, *both) for account, both in self._beside.items()]
            retry_transient(lambda: ledger_rows.count_beside(connection, counts))
        except Exception as error:  # noqa: BLE001 - kept: a count may come late
            _log.warning("accept.counts_delayed", error=_line(error))
            self._disconnect()
        else:
            self._beside = {}


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
