"""Queues that RabbitMQ has and cannot serve, or has as another type: deleted and declared anew.

A quorum queue whose log cannot be read any more (RabbitMQ 3.10, after its disk was full) is not
started. RabbitMQ goes on naming it, refuses each message for it, and ends the connection of each
consumer with an internal error, for ever. What it held is gone already; messages only name runs, so
its runs come due.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from veltrix.broker.broken import Bound, Changed, Health, Renewal
from veltrix.broker.connect import BrokerAway
from veltrix.broker.management import ManagementRefused
from veltrix.domain.backoff import Pauses
from veltrix.pipeline.relay.declaring import Declaring
from veltrix.telemetry import logger, queues_changed, queues_renewed

log = logger("relay")

# A queue that is full refuses, too: only one that refused so often, for so long, is asked.
REFUSALS_MIN, REFUSING_S = 4, 3.0
LOOKS_MIN = 2  # that find it broken, each after a refusal of its own
LOOK_S, LOOK_S_MAX = 3.0, 600.0  # between two looks at one queue
FORGET_S = 60.0  # after its last refusal: longer than the longest pause of a queue that refuses

# Of queues that are of another type: so many run empty at a time, a look at one of them, and how
# long one is kept without due runs.
EMPTYING_MAX, CHANGE_LOOK_S, EMPTYING_S = 8, 0.1, 20.0
# Until the next try. After a change, too: two relays of different settings undo each other's.
REST_S, REST_S_MAX = 60.0, 600.0
_UNKNOWN = (
    "without VELTRIX_MANAGEMENT_URL nobody knows what else is bound to it, and would be lost; set"
    " it, or change the type by hand"
)


class Bindings(Protocol):
    """What the management API knows and AMQP does not."""

    def bindings_of(self, queue: str) -> list[Bound]:
        """Those of the queue. Raises BrokerAway or ManagementRefused."""
        ...


class Queues(Protocol):
    """RabbitMQ, asked by connections that each serve one question."""

    def health_of(self, queue: str) -> Health:
        """See `veltrix.broker.broken`."""
        ...

    def renew(self, queue: str, bindings: Iterable[Bound]) -> Renewal:
        """See `veltrix.broker.broken`. Raises BrokerAway."""
        ...

    def change_type(self, queue: str, bindings: Iterable[Bound]) -> tuple[Changed, str]:
        """See `veltrix.broker.broken`. Raises BrokerAway."""
        ...


class _Refusing(msgspec.Struct):
    since: float
    last: float
    times: int = 0
    broken: int = 0  # looks that found it broken
    is_new: bool = True  # it refused since the last look


class Renewing:
    """Remembers which queues refuse, and renews those that nobody runs. For one thread."""

    def __init__(
        self, queues: Queues, bindings: Bindings | None, monotonic: Callable[[], float]
    ) -> None:
        self._queues, self._bindings, self._monotonic = queues, bindings, monotonic
        self._refusing: dict[str, _Refusing] = {}
        self._pauses = Pauses(LOOK_S, LOOK_S_MAX)

    def refused(self, queues: Iterable[str]) -> None:
        """These queues did not take a message."""
        now = self._monotonic()
        for queue in queues:
            one = self._refusing.setdefault(queue, _Refusing(now, now))
            one.last, one.times, one.is_new = now, one.times + 1, True

    def took(self, queues: Iterable[str]) -> None:
        """These queues took a message: they are well."""
        if self._refusing:
            for queue in queues:
                if self._refusing.pop(queue, None) is not None:
                    self._pauses.forget(queue)

    def reconnected(self) -> None:
        """RabbitMQ may be another one."""
        self._refusing.clear()
        self._pauses.clear()

    def go_on(self) -> str | None:
        """Look at one that refused just now, and renew it if it was found broken often enough.

        The queue, if it was deleted: what it may have held is gone.
        """
        if not self._refusing:
            return None
        queue = self._next(self._monotonic())
        if queue is None:
            return None
        one = self._refusing[queue]
        one.is_new = False
        is_broken = self._queues.health_of(queue) is Health.BROKEN
        one.broken = one.broken + 1 if is_broken else 0
        return queue if one.broken >= LOOKS_MIN and self._renew(queue) else None

    def _next(self, now: float) -> str | None:
        for queue, one in tuple(self._refusing.items()):
            if now - one.last > FORGET_S:
                del self._refusing[queue]
                self._pauses.forget(queue)
            elif (
                one.is_new
                and one.times >= REFUSALS_MIN
                and now - one.since >= REFUSING_S
                and self._pauses.extend(queue, now) is not None
            ):
                return queue
        return None

    def _renew(self, queue: str) -> bool:
        try:
            bound = [] if self._bindings is None else self._bindings.bindings_of(queue)
            done = self._queues.renew(queue, bound)
        except (BrokerAway, ManagementRefused) as error:
            done = Renewal(refused=str(error))
        if done.refused:
            log.error("queue.broken", queue=queue, deleted=done.is_deleted, reason=done.refused)
        else:
            del self._refusing[queue]
            queues_renewed.inc()
            log.warning("queue.renewed", queue=queue, why="nobody ran it: RabbitMQ's log says why")
        return done.is_deleted


class Changing:
    """Makes queues anew that are there as another type than VELTRIX_QUEUE_TYPE. For one thread.

    A type cannot be changed, so the queue is deleted when it is empty. Nothing is lost by it: while
    the queue is given no due runs, what it holds goes to the workers, as fast as they work. A run
    whose message came in the moment between the last look and the deletion comes due.
    """

    def __init__(
        self, queues: Queues, bindings: Bindings | None, monotonic: Callable[[], float]
    ) -> None:
        self._queues, self._bindings, self._monotonic = queues, bindings, monotonic
        self.emptying: dict[str, float] = {}  # these are to be given nothing
        self._rests = Pauses(REST_S, REST_S_MAX)
        self._looked_at = float("-inf")

    def go_on(self, declaring: Declaring) -> int:
        """Look at one queue that runs empty; how many are of our type now that were not."""
        now = self._monotonic()
        if not declaring.of_other_type or now - self._looked_at < CHANGE_LOOK_S:
            return 0
        for queue in sorted(declaring.of_other_type - self.emptying.keys()):
            if len(self.emptying) == EMPTYING_MAX:
                break
            if self._rests.extend(queue, now) is not None:
                self.emptying[queue] = now
        if not self.emptying:
            return 0
        self._looked_at = now
        queue, since = next(iter(self.emptying.items()))
        del self.emptying[queue]
        became, why = self._change(queue)
        if became is Changed.HOLDS_MESSAGES and now - since < EMPTYING_S:
            self.emptying[queue] = since  # behind the others
        elif became in {Changed.HOLDS_MESSAGES, Changed.REFUSED}:
            log.warning("queue.of_other_type", queue=queue, why=why or became.value)
        elif became is Changed.DONE:
            queues_changed.inc()
            log.warning("queue.changed", queue=queue, why="VELTRIX_QUEUE_TYPE is another")
        if became in {Changed.DONE, Changed.NOTHING_TO_DO}:
            declaring.changed(queue)
        return int(became is Changed.DONE)

    def _change(self, queue: str) -> tuple[Changed, str]:
        if self._bindings is None:
            return Changed.REFUSED, _UNKNOWN
        try:
            return self._queues.change_type(queue, self._bindings.bindings_of(queue))
        except (BrokerAway, ManagementRefused) as error:
            return Changed.REFUSED, str(error)
