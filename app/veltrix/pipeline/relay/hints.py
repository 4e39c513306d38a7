"""Hints: an api hands the runs it just accepted straight to RabbitMQ.

A hint is used only while its queue has room beyond what is due already, so a backlog goes first
(mechanics 14, decision 6); the accepting thread asks for room before it inserts, and offers the
runs after its commit. Offering publishes at once, in the caller's thread, without waiting for
anything: there is no hand-over between threads on the path of an event. Whatever is not published
or not confirmed comes due. Why this is not the relay's way to publish: decision 39.
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
from veltrix.pipeline.handed_key import read_key
from veltrix.pipeline.relay.connections import make_declarer, make_publisher
from veltrix.pipeline.relay.credit import Credit
from veltrix.pipeline.relay.hint_looks import HintLooks
from veltrix.pipeline.relay.pace import LOOK_SHARE
from veltrix.settings.fields import Settings
from veltrix.store.transactions import open_autocommit
from veltrix.telemetry import (
    broker_up,
    hints_dropped,
    logger,
    runs_relayed,
    unconfirmed_messages,
)

log = logger("hints")

BUDGET_S, BUDGET_IDLE_S = 0.25, 1.0
BUDGET_LOW_S = 0.02  # between two looks when room runs out
ANSWERS_S, ANSWERS_IDLE_S = 0.02, 0.25


class HintRelay:
    """The relay of an api, with its own publisher and its own database connection.

    `take_credit` and `offer` may be called from any thread and wait for no server. Two threads of
    its own take in what RabbitMQ answers, and look at the queues.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        name: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._engine, self._monotonic = settings, engine, monotonic
        self._name = name or f"api@{socket.gethostname()}"
        self._limits = limits_of(settings)
        self._lock = Lock()  # held by who uses the publisher, or the credit
        self._publisher = make_publisher(settings, f"{self._name} hints")
        self._stop, self._has_unsent, self._is_low = Event(), Event(), Event()
        self._credit = Credit(settings.hints_max, self._is_low.set)
        self._occupied_s: dict[str, float] = {}
        self._lost: deque[Message] = deque()  # nobody knows whether they arrived
        self._refused: deque[Message] = deque()  # or returned; the looks give both back
        self._looks = HintLooks(
            settings,
            make_declarer(settings, f"{self._name} topology"),
            self._lost,
            self._refused,
            monotonic,
        )
        self._key: bytes | None = None  # of the ledger; it signs what is handed over as claimed
        self._is_up = False
        self._connections = 0  # counted by the answers thread
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
        self._looks.close()

    def take_credit(self, queue: str, runs: int) -> int:
        """How many of these runs may be hinted: they are held for the caller, who offers them soon.

        0 while RabbitMQ is away or blocked, the queue is full, or due runs wait for all its room.
        """
        now = self._monotonic()
        with self._lock:
            return self._credit.take(queue, runs, now, is_open=self._publisher.window > 0)

    def offer(self, runs: Sequence[DueRun]) -> None:
        """Publish these committed runs now, or have them made due. Never raises, never waits."""
        messages = messages_for(runs, self._name, self._limits, self._occupied_s, self._key)
        with self._lock:
            relayed = self._publish(messages)
            if self._publisher.has_unsent:
                self._has_unsent.set()
        runs_relayed.labels("hint").inc(relayed)
        hints_dropped.inc(len(runs) - relayed)

    def is_up(self) -> bool:
        """Whether RabbitMQ was there at the last look. Thread-safe, and costs nothing."""
        return self._is_up

    def _publish(self, messages: list[Message]) -> int:
        """How many runs are on their way; the lock is held."""
        if not self._publisher.is_connected:
            self._refused.extend(messages)  # nobody has those
            return 0
        try:
            if self._publisher.window < len(messages):
                self._take_answers()
            taken = self._publisher.publish(messages)
        except BrokerAway:
            return 0  # the answers thread finds out and connects again
        self._refused.extend(messages[taken:])  # nobody has those: they need not wait for a hold
        return self._credit.sent(messages[:taken])

    def _take_answers(self) -> None:
        """Take in what RabbitMQ said; the lock is held. Raises BrokerAway."""
        said = self._publisher.poll()
        self._credit.answered((*said.confirmed, *said.nacked, *said.returned))
        if said.nacked or said.returned:
            self._credit.refused((*said.nacked, *said.returned), self._monotonic())
            self._refused.extend((*said.nacked, *said.returned))

    # The answers thread

    def _set_up(self, *, is_up: bool) -> None:
        self._is_up = is_up
        broker_up.set(is_up)

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
            self._credit.forget()  # until the budget thread has declared the queues and looked
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
                    if connection is None:
                        connection = open_autocommit(self._engine)
                        self._key = read_key(connection)
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
            is_used = now - self._credit.used_at < BUDGET_IDLE_S
            self._is_low.wait(BUDGET_S if is_used else BUDGET_IDLE_S)
            self._is_low.clear()
        if connection is not None:
            connection.close()

    def _budget_once(self, tx: Connection) -> None:
        """One look at all queues; `tx` commits each statement."""
        began = self._monotonic()
        is_connected = self._publisher.is_connected
        if self._looks.once(tx, began, self._connections, is_connected=is_connected):
            self._is_low.set()  # go on at once
        left, occupied_s = self._looks.left(), self._looks.occupied_s
        with self._lock:
            self._credit.looked(left, began)
            self._occupied_s = occupied_s
