"""Finding queues that were purged, though nobody can see into a queue (mechanics 13).

An empty queue whose oldest waiting run stays the same has lost it, if nobody can hold its message:
no consumer is there, or no unacknowledged message is by management's word. Otherwise the hold ends
it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from veltrix.broker.broken import Bound
from veltrix.broker.connect import BrokerAway
from veltrix.broker.declarer import Ensured
from veltrix.telemetry import logger

log = logger("relay")

# Management's totals lag 5 s behind.
UNCONSUMED_S, CONSUMED_S = 2.0, 6.0


class QueueTotals(Protocol):
    """What the management API knows and AMQP does not."""

    def messages_by_queue(self) -> dict[str, int]:
        """Messages per queue, unacknowledged ones too. Raises BrokerAway."""
        ...

    def bindings_of(self, queue: str) -> list[Bound]:
        """What is bound to the queue. Raises BrokerAway or ManagementRefused."""
        ...


class PurgeWatch:
    """Remembers which queues look purged, since when. `totals` None: there is no management API."""

    def __init__(self, totals: QueueTotals | None) -> None:
        self._totals = totals
        self._suspects: dict[str, tuple[datetime, float]] = {}

    def lost(self, found: Ensured, waiting: Mapping[str, datetime], now: float) -> list[str]:
        """The queues that have lost what they were given.

        `found` is a look at the queues of `waiting`, which says by queue what marks its oldest run
        that was handed over and not claimed. `now` is monotonic seconds.
        """
        for queue in self._suspects.keys() & waiting.keys() - set(found.empty):
            del self._suspects[queue]
        unconsumed = set(found.unconsumed)
        held = self._held(set(found.empty) - unconsumed)
        lost = []
        for queue in found.empty:
            oldest, since = self._suspects.get(queue, (None, now))
            if queue in held or oldest != waiting[queue]:
                since = now
            self._suspects[queue] = (waiting[queue], since)
            if now - since >= (UNCONSUMED_S if queue in unconsumed else CONSUMED_S):
                lost.append(queue)
        return lost

    def forget(self, queue: str) -> None:
        """Its runs were made due: what happens now is a new story."""
        self._suspects.pop(queue, None)

    def _held(self, queues: set[str]) -> set[str]:
        """Those of the queues whose messages a consumer may hold."""
        if self._totals is None or not queues:
            return queues
        try:
            messages = self._totals.messages_by_queue()
        except BrokerAway as error:
            log.debug("management.away", error=str(error))
            return queues
        return {queue for queue in queues if messages.get(queue, 1) > 0}
