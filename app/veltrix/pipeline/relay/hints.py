"""Hints: an api hands the runs it just accepted straight to RabbitMQ.

A hint is used only while its queue has room beyond what is due already, so a backlog goes first
(mechanics 14, decision 6); the accepting thread asks for room before it inserts, and offers the
runs after its commit. Offering publishes at
once, in the caller's thread, without waiting for anything: there is no hand-over between threads on
the path of an event. Whatever is not published or not confirmed comes due.
"""

import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, Lock, Thread

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from veltrix.broker.connect import BrokerAway
from veltrix.broker.message import Message, limits_of, messages_for
from veltrix.domain.backoff import Backoff
from veltrix.domain.due import DueRun
from veltrix.pipeline.relay.budget import Budget
from veltrix.pipeline.relay.connections import make_declarer, make_publisher
from veltrix.pipeline.relay.declaring import Declaring
from veltrix.pipeline.relay.due_rows import make_due, make_runs_due
from veltrix.pipeline.relay.pace import LOOK_SHARE
from veltrix.settings.fields import Settings
from veltrix.store.transactions import open_autocommit
from veltrix.telemetry import (
    broker_up,
    hints_dropped,
    logger,
    messages_published,
    publish_nacks,
    publish_returns,
    runs_relayed,
    unconfirmed_messages,
)

log = logger("hints")

BUDGET_S, BUDGET_IDLE_S = 0.25, 1.0
BUDGET_LOW_S = 0.02  # between two looks when room runs out
BUDGET_STALE_S = 3.0
ANSWERS_S, ANSWERS_IDLE_S = 0.02, 0.25
REFUSED_PAUSE_S = 1.0


class HintRelay:
    """The relay thread of an api, with its own publisher and its own database connection.

    `take_credit` and `offer` may be called from any thread and wait for no server.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        name: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._engine = settings, engine
        self._name = name or f"api@{socket.gethostname()}"
        self._publisher = make_publisher(settings, f"{self._name} hints")
        self._declarer = make_declarer(settings, f"{self._name} topology")
        self._monotonic = monotonic
        self._limits = limits_of(settings)
        self._lock = Lock()  # the publisher and everything down to the blank line
        self._left: dict[str, int] = {}
        self._low: dict[str, int] = {}
        self._left_at = self._used_at = -1e9
        self._occupied_s: dict[str, float] = {}
        self._runs_unconfirmed = 0
        self._paused_until: dict[str, float] = {}

        self._is_up = False
        self._connections = 0  # counted by the answers thread
        self._lost: deque[Message] = deque()  # or returned, or refused: for the budget thread
        self._budget = Budget(settings)
        # By the budget thread, for this many connections:
        self._declaring = Declaring(self._declarer, "hints", monotonic)
        self._declared_for = 0
        self._stop, self._has_unsent, self._is_low = Event(), Event(), Event()
        self._threads = [
            Thread(target=self._keep_answers, name="hints-answers", daemon=True),
            Thread(target=self._keep_budget, name="hints-budget", daemon=True),
        ]

    def start(self) -> None:
        """Begin; until the first view of the queues there is no room."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; what is not confirmed comes due."""
        self._stop.set()
        self._has_unsent.set()
        self._is_low.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._publisher.close()
        self._declarer.close()

    def take_credit(self, queue: str, runs: int) -> int:
        """How many of these runs may be hinted: they are held for the caller, who offers them soon.

        0 while RabbitMQ is away or blocked, the queue is full, or due runs wait for all its room.
        """
        now = self._monotonic()
        with self._lock:
            self._used_at = now
            if not self._is_open(now) or self._paused_until.get(queue, 0.0) > now:
                return 0
            spare = self._settings.hints_max - self._runs_unconfirmed
            left = self._left.get(queue, 0)
            granted = max(0, min(runs, left, spare))
            self._left[queue] = left - granted
            if left - granted < self._low.get(queue, 0):
                self._is_low.set()
            return granted

    def offer(self, runs: Sequence[DueRun]) -> None:
        """Publish these committed runs now, or let them come due. Never raises, never waits."""
        messages = messages_for(runs, self._name, self._limits, self._occupied_s)
        with self._lock:
            taken = self._publish(messages)
            if self._publisher.has_unsent:
                self._has_unsent.set()
        relayed = sum(len(message.run_ids) for message in messages[:taken])
        messages_published.inc(taken)
        runs_relayed.labels("hint").inc(relayed)
        hints_dropped.inc(len(runs) - relayed)

    def is_up(self) -> bool:
        """Whether RabbitMQ was there at the last look. Thread-safe, and costs nothing."""
        return self._is_up

    def _set_up(self, *, is_up: bool) -> None:
        self._is_up = is_up
        broker_up.set(is_up)

    def _is_open(self, now: float) -> bool:
        return self._publisher.window > 0 and now - self._left_at < BUDGET_STALE_S

    def _publish(self, messages: list[Message]) -> int:
        try:
            if self._publisher.window < len(messages):
                self._take_answers()
            taken = self._publisher.publish(messages)
        except BrokerAway:
            return 0  # the answers thread finds out and connects again
        self._runs_unconfirmed += sum(len(message.run_ids) for message in messages[:taken])
        return taken

    def _take_answers(self) -> None:
        """Take in what RabbitMQ said; the lock is held. Raises BrokerAway."""
        said = self._publisher.poll()
        for message in (*said.confirmed, *said.nacked, *said.returned):
            self._runs_unconfirmed -= len(message.run_ids)
        if said.nacked or said.returned:
            publish_nacks.inc(len(said.nacked))
            publish_returns.inc(len(said.returned))
            until = self._monotonic() + REFUSED_PAUSE_S
            self._paused_until.update(
                {message.queue: until for message in (*said.nacked, *said.returned)}
            )
            self._lost.extend((*said.nacked, *said.returned))

    # The answers thread

    def _keep_answers(self) -> None:
        backoff = Backoff(0.1, self._settings.broker_backoff_s_max)
        while not self._stop.is_set():
            try:
                if self._publisher.is_connected:
                    self._answer_once()
                elif backoff.is_over(self._monotonic()):
                    self._connect()
                    backoff.reset()
            except BrokerAway as error:
                pause_s = backoff.extend(self._monotonic())
                self._set_up(is_up=False)
                log.warning("broker.lost", error=str(error), retry_in_s=round(pause_s, 2))
            is_busy = self._publisher.unconfirmed or self._publisher.has_unsent
            self._has_unsent.wait(ANSWERS_S if is_busy else ANSWERS_IDLE_S)
            self._has_unsent.clear()

    def _answer_once(self) -> None:
        with self._lock:
            self._take_answers()
            unconfirmed_messages.set(self._publisher.unconfirmed)

    def _connect(self) -> None:
        """Connecting takes a while: without the lock, but nothing is published meanwhile."""
        with self._lock:
            self._lost.extend(self._publisher.take_lost())
            self._runs_unconfirmed = 0
            self._left = {}  # until the budget thread has declared the queues and looked
        self._publisher.connect()
        self._connections += 1
        self._set_up(is_up=True)
        log.info("broker.connected")

    # The budget thread

    def _keep_budget(self) -> None:
        connection: Connection | None = None
        backoff = Backoff(0.1, 1.0)
        while not self._stop.is_set():
            began = self._monotonic()
            try:
                if backoff.is_over(began):
                    connection = connection or open_autocommit(self._engine)
                    self._budget_once(connection)
                    backoff.reset()
            except SQLAlchemyError as error:
                log.warning("database.away", error=type(error).__name__)
                backoff.extend(self._monotonic())
                if connection is not None:
                    connection.invalidate()
                    connection.close()
                connection = None
            except BrokerAway as error:
                log.warning("broker.lost", error=str(error))
                backoff.extend(self._monotonic())
            now = self._monotonic()
            self._stop.wait(max(BUDGET_LOW_S, min((now - began) / LOOK_SHARE, BUDGET_S)))
            self._is_low.wait(BUDGET_S if now - self._used_at < BUDGET_IDLE_S else BUDGET_IDLE_S)
            self._is_low.clear()
        if connection is not None:
            connection.close()

    def _budget_once(self, tx: Connection) -> None:
        """One look at all queues; `tx` commits each statement."""
        began = self._monotonic()
        self._budget.refresh(tx, began)
        if self._declared_for != self._connections:
            self._declaring.reconnected()
            self._declared_for = self._connections
        self._return_lost(tx)
        if self._publisher.is_connected:
            self._declare(tx)
        there = self._declaring.there
        left = {
            queue: self._budget.left_beside_due(queue) if queue in there else 0
            for queue in self._budget.queues
        }
        with self._lock:
            self._left, self._left_at = left, began
            self._low = {queue: runs // 2 for queue, runs in left.items()}
            self._occupied_s = dict(self._budget.occupied_s)

    def _declare(self, tx: Connection) -> None:
        """Make sure of some more queues: hints for those that are there need not wait for all."""
        found = self._declaring.go_on(self._budget.queues, self._budget.depths)
        for queue in sorted(found.missing):
            runs = make_due(tx, queue)
            if runs:
                log.warning("queue.lost", queue=queue, why="missing", runs_made_due=runs)
        if found.has_news:
            self._is_low.set()  # go on at once
        else:
            self._declarer.close()

    def _return_lost(self, tx: Connection) -> None:
        """Runs of messages that were refused, returned or never confirmed are due now.

        Their queues are declared again.
        """
        lost = [self._lost.popleft() for _ in range(len(self._lost))]
        if lost:
            queues = {message.queue for message in lost}
            log.warning("hints.lost", queues=sorted(queues), messages=len(lost))
            make_runs_due(tx, [run_id for message in lost for run_id in message.run_ids])
            self._declaring.doubt(queues)
