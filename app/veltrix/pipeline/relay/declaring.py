"""Which queues are there, found out a part at a time: a relay has to be heard in between.

Whoever declares many queues at once is silent meanwhile, and a connection that is silent for two
heartbeats is closed. Those with due runs come first, so that nobody waits for a queue that is not
needed now.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime

import msgspec

from veltrix.broker.declarer import MISSING_MAX, Declarer, Ensured
from veltrix.broker.topology import is_of_other_type, is_queue_name
from veltrix.domain.backoff import Backoff, Pauses
from veltrix.pipeline.relay.due_rows import LONG_AGO, QueueDepth
from veltrix.telemetry import logger, queues_refused

PART_MIN, PART_MAX = 8, 256  # queues
# A part that took longer is followed by a smaller one; one that took less, by a larger.
PART_LONG_S, PART_SHORT_S = 0.5, 0.25
REFUSED_S, REFUSED_S_MAX = 1.0, 30.0  # until a queue that was refused is tried again
TOLD_S, TOLD_S_MAX = 1.0, 60.0  # between two lines about refusals
_NEVER = LONG_AGO.replace(year=9999)


class Found(msgspec.Struct, frozen=True):
    """What one part came to: queues that exist, and those that have lost what they were given."""

    there: int = 0
    missing: frozenset[str] = frozenset()
    empty: frozenset[str] = frozenset()

    @property
    def has_news(self) -> bool:
        """Something was found out: there may be more."""
        return bool(self.there or self.missing)


class Declaring:
    """Declares and remembers over one `declarer`. `log` names who does. For one thread."""

    def __init__(self, declarer: Declarer, log: str, monotonic: Callable[[], float]) -> None:
        self._declarer, self._monotonic = declarer, monotonic
        self._log = logger(log)
        self.there: set[str] = set()  # on this connection
        self._before: set[str] = set()  # on connections before: most likely still
        self._is_new = True
        self._is_bare = False  # so many were missing that looking first is a waste
        self._part = PART_MIN
        self._pauses = Pauses(REFUSED_S, REFUSED_S_MAX)
        self._refused: dict[str, str] = {}
        self.of_other_type: set[str] = set()  # as far as is known, and there all the same
        self._unasked: set[str] = set()  # there, and of a type that nobody knows yet
        self._telling = Backoff(TOLD_S, TOLD_S_MAX)
        self._to_look: deque[tuple[str, datetime]] = deque()

    def reconnected(self) -> None:
        """RabbitMQ may be another one: look at everything again."""
        self._before |= self.there
        self.there = set()
        self._to_look.clear()
        self._is_new = True
        self._is_bare = False
        self._pauses.clear()

    def doubt(self, queues: Iterable[str]) -> None:
        """These may be gone: declare them again."""
        for queue in queues:
            self.there.discard(queue)
            self._before.discard(queue)

    def changed(self, queue: str) -> None:
        """It is of the wanted type now. Nothing that it held is to be doubted: it was empty."""
        self.of_other_type.discard(queue)

    def waiting(self, queues: Collection[str]) -> list[str]:
        """Those that are not known to be there and may be tried now."""
        now = self._monotonic()
        return [
            queue
            for queue in queues
            if queue not in self.there and self._pauses.is_over(queue, now) and is_queue_name(queue)
        ]

    def go_on(self, queues: Collection[str], depths: Mapping[str, QueueDepth]) -> Found:
        """Make sure of the next part of `queues`, those with due runs first. Raises BrokerAway.

        What an empty queue held before this connection, nobody knows.
        """
        waiting = self.waiting(queues)
        if not waiting and not self._is_new:
            return self._ask()
        began = self._monotonic()
        waiting.sort(key=lambda queue: _urgency(depths.get(queue)))
        part = waiting[: self._part]
        known = [queue for queue in part if queue in self._before]
        found = self._ensure([queue for queue in part if queue not in self._before])
        seen = self._declarer.look(known) if known else None
        self._is_new = False
        there, empty = set(found.there) | (self.of_other_type & set(part)), set(found.empty)
        if seen is not None:
            there |= set(seen.there)
            empty |= set(seen.empty)
            self.doubt(seen.missing)
        self.there |= there
        self._adapt(self._monotonic() - began)
        return Found(len(there), frozenset(found.missing), frozenset(empty))

    def _ask(self) -> Found:
        """Declare some of those that are there and that no declaration reached.

        RabbitMQ tells a type by a refusal only, and a call bears a few. They have been in use since
        they were seen, so being empty is no news of them.
        """
        part = sorted(self._unasked & self.there)[:PART_MIN]
        if not part:
            return Found()
        found = self._ensure(part)
        return Found(len(set(part) - self._unasked), frozenset(found.missing))

    @property
    def is_looking(self) -> bool:
        """Some of what is to be looked at is left: nobody is passed over."""
        return bool(self._to_look)

    def look_at(self, waiting: Mapping[str, datetime]) -> None:
        """Look at these in the next parts, each with what marks its oldest run."""
        self._to_look = deque((q, at) for q, at in waiting.items() if q in self.there)
        if not self._to_look:
            self._declarer.look(())  # or RabbitMQ would close the connection

    def look(self) -> tuple[Ensured, dict[str, datetime]] | None:
        """A look at the next part of what is to be looked at; None: there is nothing."""
        if not self._to_look:
            return None
        part = dict(self._to_look.popleft() for _ in range(min(PART_MAX, len(self._to_look))))
        found = self._declarer.look(part)
        self.doubt(found.missing)
        return found, part

    def _ensure(self, queues: list[str]) -> Ensured:
        if not queues and not self._is_new:
            return Ensured([], [], [], [], {})
        found = self._declarer.ensure(queues, is_looking=not self._is_bare)
        self._is_bare = self._is_bare or len(found.missing) >= MISSING_MAX
        now = self._monotonic()
        for queue in found.there:
            self._refused.pop(queue, None)
        for queue in found.refused.keys() - found.there:
            self._pauses.extend(queue, now)
        self._unasked.difference_update(found.there, found.refused)
        self._unasked.update(found.unasked)
        of_other_type = {q for q, why in found.refused.items() if is_of_other_type(why)}
        self.of_other_type |= of_other_type
        refused = {q: why for q, why in found.refused.items() if q not in of_other_type}
        self._refused |= refused
        queues_refused.set(len(self._refused))
        if refused and self._telling.is_over(now):
            self._telling.extend(now)
            queue, reason = next(iter(refused.items()))
            self._log.error(
                "queue.refused",
                queue=queue,
                queues=len(self._refused),
                reason=reason,
                cure="see `veltrix topology`; what is there is used as it is",
            )
        return found

    def _adapt(self, took_s: float) -> None:
        if took_s > PART_LONG_S:
            self._part = max(PART_MIN, self._part // 2)
        elif took_s < PART_SHORT_S:
            self._part = min(PART_MAX, self._part * 2)


def _urgency(depth: QueueDepth | None) -> tuple[bool, datetime]:
    if depth is None:
        return True, _NEVER
    return depth.first_due is None, depth.first_due or depth.first_handed or _NEVER
