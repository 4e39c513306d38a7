"""The relay: hands due runs to RabbitMQ. Any number run side by side.

Scan and commit, then publish: a relay that dies between the two leaves runs that come due again.
Nothing is believed that RabbitMQ did not confirm, and nothing is scanned that cannot be published.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from threading import Event

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from veltrix.broker.connect import BrokerAway
from veltrix.broker.declarer import Declarer
from veltrix.broker.message import Message, limits_of, messages_for, run_ids_of
from veltrix.broker.publisher import Polled, Publisher
from veltrix.domain.backoff import Backoff, Pauses
from veltrix.pipeline.relay.budget import Budget
from veltrix.pipeline.relay.connections import Asking, make_declarer, make_publisher
from veltrix.pipeline.relay.declaring import Declaring
from veltrix.pipeline.relay.due_rows import Scanned, make_due, make_runs_due, scan
from veltrix.pipeline.relay.pace import Pace
from veltrix.pipeline.relay.purge_detector import PurgeWatch, QueueTotals
from veltrix.pipeline.relay.renewing import Changing, Renewing
from veltrix.settings.fields import Settings
from veltrix.store.transactions import open_autocommit, retry_transient
from veltrix.telemetry import (
    broker_up,
    logger,
    relay_lag_seconds,
    runs_relayed,
    runs_rescued,
    runs_settled,
    unconfirmed_messages,
)

log = logger("relay")

SCAN_RUNS_MAX = 2_000
CHECK_S = 2.0
RESCUE_S = 0.25  # between two looks at expired leases
PAUSE_S, PAUSE_S_MAX = 0.5, 30.0


class RelayCounts(msgspec.Struct):
    """What one `relay_once` did."""

    handed: int = 0
    messages: int = 0
    confirmed: int = 0
    nacked: int = 0
    returned: int = 0
    rescued: int = 0
    poisoned: int = 0
    made_due: int = 0
    declared: int = 0
    renewed: int = 0
    changed: int = 0

    @property
    def has_work(self) -> bool:
        """There may be more at once."""
        return bool(
            self.handed or self.poisoned or self.made_due or self.confirmed or self.declared
        )


class Relay:
    """One relay: one connection to the database, one to publish, one to declare. For one thread.

    `engine` must give connections that are not shared. `name` is the origin in its messages.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        publisher: Publisher,
        declarer: Declarer,
        *,
        name: str,
        totals: QueueTotals | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._engine, self._name = settings, engine, name
        self._publisher, self._declarer = publisher, declarer
        self._declaring = Declaring(declarer, "relay", monotonic)
        self._monotonic = monotonic
        self._limits = limits_of(settings)
        self._budget = Budget(settings)
        self._database: Connection | None = None
        self._database_seen_at = self._rescue_from = 0.0
        self._pace = Pace(settings, self._budget, monotonic())
        self._checked_at = self._rescued_at = -1e9
        self._broker_backoff = Backoff(0.1, settings.broker_backoff_s_max)
        self._pauses = Pauses(PAUSE_S, PAUSE_S_MAX)
        asking = Asking(settings, f"{name} repair")
        self._renewing = Renewing(asking, totals, monotonic)
        self._changing = Changing(asking, totals, monotonic)
        self._purge_watch = PurgeWatch(totals)
        self._outgoing: deque[Message] = deque()
        self._lost: list[str] = []  # runs that nobody may have been told of

    @property
    def is_connected(self) -> bool:
        """RabbitMQ is there."""
        return self._publisher.is_connected

    @property
    def has_database(self) -> bool:
        """PostgreSQL answered the last time it was asked."""
        return self._database is not None

    def close(self) -> None:
        """Let all connections go; what is not confirmed comes due."""
        self._publisher.close()
        self._declarer.close()
        if self._database is not None:
            self._database.close()
            self._database = None

    @property
    def queues(self) -> Collection[str]:
        """Every queue with a subscription or an open run, as of the last look. For any thread."""
        return self._budget.queues

    @property
    def unconfirmed(self) -> int:
        """Messages on their way that RabbitMQ has not confirmed."""
        return self._publisher.unconfirmed

    def run(self, stop: Event) -> None:
        """Relay until `stop`. Raises what the database raises; call it again then."""
        while not stop.is_set():
            if not self.relay_once().has_work:
                is_publishing = bool(self._publisher.unconfirmed)
                stop.wait(self._pace.pause_s(self._monotonic(), is_publishing=is_publishing))

    def relay_once(self) -> RelayCounts:
        """Hand over what is due and has room, and take in what the broker answered.

        Raises the database's errors, after which it connects again; RabbitMQ's absence is none:
        then nothing is scanned, and nothing moves.
        """
        counts = RelayCounts()
        try:
            tx = self._open_database()
            if self._pace.is_look_due(self._monotonic()):
                self._look(tx)
            if self._has_broker():
                self._work(tx, counts)
            self._database_seen_at = self._monotonic()
        except BrokerAway as error:
            self._lose_broker(error)
        except BaseException:
            self._drop_database()
            raise
        return counts

    # The database

    def _open_database(self) -> Connection:
        """The connection. A new one, or a gap since the last use, forbids rescues for one hold.

        Workers that live may have been unable to renew their leases, too (mechanics 12).
        """
        now = self._monotonic()
        if self._database is None:
            self._database = open_autocommit(self._engine)
            self._rescue_from = now + self._settings.hold_s
        elif now - self._database_seen_at > self._settings.hold_s / 2:
            self._rescue_from = now + self._settings.hold_s
        return self._database

    def _drop_database(self) -> None:
        connection, self._database = self._database, None
        if connection is not None:
            connection.invalidate()
            connection.close()
        self._lose(())

    def _look(self, tx: Connection) -> None:
        began = self._monotonic()
        self._budget.refresh(tx, began)
        self._pace.looked(began, self._monotonic())

    # RabbitMQ

    def _has_broker(self) -> bool:
        if self._publisher.is_connected:
            return True
        if not self._broker_backoff.is_over(self._monotonic()):
            return False
        self._publisher.connect()
        self._declaring.reconnected()
        self._renewing.reconnected()
        self._pauses.clear()  # a broker that was away may be well again
        broker_up.set(1)
        log.info("broker.connected")
        return True

    def _lose_broker(self, error: BrokerAway) -> None:
        self._publisher.close()
        self._declarer.close()
        self._lose(self._publisher.take_lost())
        broker_up.set(0)
        pause_s = self._broker_backoff.extend(self._monotonic())
        log.warning("broker.lost", error=str(error), retry_in_s=round(pause_s, 2))

    def _lose(self, messages: Collection[Message]) -> None:
        """Give these up, and what was to be published: all of it is due once the database hears."""
        given_up = (*messages, *self._outgoing)
        self._lost += run_ids_of(given_up)
        self._outgoing.clear()

    def _declare(self, tx: Connection, counts: RelayCounts) -> None:
        """Make sure of some more queues; make due what those had that are missing or empty."""
        found = self._declaring.go_on(self._budget.queues, self._budget.depths)
        for queue in sorted(found.missing | found.empty):
            self._make_due(tx, queue, counts, "missing" if queue in found.missing else "empty")
        counts.declared = found.there

    def _make_due(self, tx: Connection, queue: str, counts: RelayCounts, why: str) -> None:
        runs = retry_transient(lambda: make_due(tx, queue, is_first=True))
        self._purge_watch.forget(queue)
        self._look_from_the_beginning([queue])
        counts.made_due += runs
        if runs:
            log.warning("queue.lost", queue=queue, why=why, runs_made_due=runs)

    def _renew(self, tx: Connection, counts: RelayCounts) -> None:
        queue = self._renewing.go_on()
        if queue is not None:
            self._pauses.forget(queue)
            self._declaring.doubt([queue])
            self._make_due(tx, queue, counts, "broken")
            counts.renewed += 1

    # One round

    def _work(self, tx: Connection, counts: RelayCounts) -> None:
        self._declare(tx, counts)
        self._broker_backoff.reset()
        if self._lost:  # or they would wait for the end of their hold
            counts.made_due += self._make_runs_due(tx, self._lost, self._budget.queues)
            self._lost = []
        self._take(tx, self._publisher.poll(), counts)
        self._renew(tx, counts)
        counts.changed = self._changing.go_on(self._declaring)
        self._check(tx, counts)
        if not self._outgoing:
            scanned = self._scan(tx)
            if scanned is not None:
                self._count(scanned, counts)
                self._outgoing.extend(
                    messages_for(scanned.runs, self._name, self._limits, self._budget.occupied_s)
                )
        if self._outgoing:
            self._publish(counts)
        unconfirmed_messages.set(self._publisher.unconfirmed)

    def _publish(self, counts: RelayCounts) -> None:
        taken = self._publisher.publish(list(self._outgoing))
        for _ in range(taken):
            counts.handed += len(self._outgoing.popleft().run_ids)
        counts.messages += taken
        runs_relayed.labels("due").inc(counts.handed)

    def _scan(self, tx: Connection) -> Scanned | None:
        if self._publisher.window == 0:
            return None
        now = self._monotonic()
        queues = self._open_queues(now)
        wanted = self._budget.wanted(queues, SCAN_RUNS_MAX)
        may_rescue = now >= self._rescue_from and now - self._rescued_at >= RESCUE_S
        if not wanted and not may_rescue:
            return None
        rescue = queues if may_rescue else ()
        scanned = retry_transient(
            lambda: scan(
                tx,
                wanted,
                hold_s=self._settings.hold_s,
                hold_s_max=self._settings.hold_s_max,
                poison_crashes_max=self._settings.poison_crashes_max,
                rescue=rescue,
            )
        )
        if may_rescue:
            self._rescued_at = now
        self._budget.due_floors.update(scanned.first_due_at if scanned else {})
        return scanned

    def _open_queues(self, now: float) -> list[str]:
        """Queues that are there, not paused, and not to run empty."""
        there, is_over = self._declaring.there, self._pauses.is_over
        ours = there - self._changing.emptying.keys()
        return [q for q in self._budget.queues if q in ours and is_over(q, now)]

    def _count(self, scanned: Scanned, counts: RelayCounts) -> None:
        """Say what the committed scan moved."""
        by_queue: dict[str, int] = {}
        for run in scanned.runs:
            by_queue[run.queue] = by_queue.get(run.queue, 0) + 1
        for queue, runs in by_queue.items():
            self._budget.give(queue, runs)
        for queue, first in scanned.first_due_at.items():
            relay_lag_seconds.labels(queue).set((scanned.now - first).total_seconds())
        for run_id in scanned.rescued:
            log.warning("run.rescued", run_id=run_id)
        for run in scanned.poisoned:
            log.error("run.failed", run_id=run.id, workflow=run.workflow, reason="poison")
            runs_settled.labels(run.workflow, "failed").inc()
        runs_rescued.inc(len(scanned.rescued))
        counts.rescued, counts.poisoned = len(scanned.rescued), len(scanned.poisoned)

    # What RabbitMQ answered

    def _take(self, tx: Connection, said: Polled, counts: RelayCounts) -> None:
        counts.confirmed, counts.nacked = len(said.confirmed), len(said.nacked)
        counts.returned = len(said.returned)
        self._renewing.took(message.queue for message in said.confirmed)
        if said.nacked:
            self._pause(said.nacked, "queue.refuses")
            self._renewing.refused({message.queue for message in said.nacked})
        if said.returned:
            self._pause(said.returned, "queue.unroutable")
            self._declaring.doubt({message.queue for message in said.returned})
        if said.nacked or said.returned:
            self._return(tx, [*said.nacked, *said.returned])

    def _pause(self, messages: list[Message], finding: str) -> None:
        """The queues of these messages get nothing for a while, longer each time it happens."""
        now = self._monotonic()
        for queue in {message.queue for message in messages}:
            pause_s = self._pauses.extend(queue, now)
            if pause_s is not None:
                log.warning(finding, queue=queue, paused_s=pause_s)

    def _return(self, tx: Connection, messages: list[Message]) -> None:
        try:
            self._make_runs_due(tx, run_ids_of(messages), {message.queue for message in messages})
        except SQLAlchemyError:
            self._lose(messages)  # they are due when a database can write again
            raise

    def _make_runs_due(self, tx: Connection, run_ids: list[str], queues: Collection[str]) -> int:
        """They are the next to go: they were under way before all that is due now."""
        runs = retry_transient(lambda: make_runs_due(tx, run_ids, is_first=True))
        self._look_from_the_beginning(queues)
        return runs

    def _look_from_the_beginning(self, queues: Collection[str]) -> None:
        for queue in queues:
            self._budget.due_floors.pop(queue, None)
        self._pace.look_soon()

    def _check(self, tx: Connection, counts: RelayCounts) -> None:
        """Find queues that were deleted or purged while runs of theirs wait, and make those due."""
        now = self._monotonic()
        if now - self._checked_at >= CHECK_S and not self._declaring.is_looking:
            self._checked_at = now
            self._look(tx)
            self._declaring.look_at(
                {
                    queue: depth.first_handed
                    for queue, depth in self._budget.depths.items()
                    if depth.first_handed is not None
                }
            )
        looked = self._declaring.look()
        for queue in self._purge_watch.lost(*looked, now) if looked else ():
            self._make_due(tx, queue, counts, "purged")


def make_relay(
    settings: Settings,
    engine: Engine,
    *,
    name: str,
    totals: QueueTotals | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Relay:
    """A relay on connections of its own, opened when first needed. `engine` is for it alone."""
    publisher = make_publisher(settings, f"{name} publisher")
    declarer = make_declarer(settings, f"{name} topology")
    return Relay(
        settings, engine, publisher, declarer, name=name, totals=totals, monotonic=monotonic
    )
