"""The intake: how many messages a worker may have here, so that idle hands get the work.

A message that waits here for a child that is busy with something long is one that an idle worker
elsewhere cannot have. So a worker of which no child was free for `hand_back_after_s` takes none and
gives back those that wait; when a child is free it takes few at first, and more as long as they are
done quickly. Pure: it is told what happens and when, and the consumer does what it says.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping

_QUEUES_FIRST = 4  # taken from at once when a child is free; the others in the next moments


class Intake:
    """By queue, how many messages may be here: its width. Closed, none may.

    It starts wide open. RabbitMQ counts what is given back against a message's delivery limit, so
    no more is taken than can be begun: a worker with one child that does nothing but long runs
    takes one message at a time and gives hardly any back.
    """

    def __init__(self, queues: Iterable[str], width_max: int, hand_back_after_s: float) -> None:
        self._turn = deque(queues)
        self._width_max, self._after_s = width_max, hand_back_after_s
        self._widths = dict.fromkeys(self._turn, width_max)
        self._received: Counter[str] = Counter()
        self._full_since: float | None = None
        self._has_freed = False
        self._opened = 0.0

    @property
    def widths(self) -> Mapping[str, int]:
        """Of the queues that are taken from; empty: it is closed."""
        return self._widths

    def note(self, free: int, now: float) -> None:
        """So many children are free now: told whenever one was given a job, or ended one."""
        if free > 0:
            self._full_since = None
            self._has_freed = True
        elif self._full_since is None:
            self._full_since = now

    def received(self, queue: str) -> None:
        """A message has come."""
        self._received[queue] += 1

    def is_stuck(self, now: float) -> bool:
        """No child was free for so long that what waits is better off elsewhere."""
        return self._full_since is not None and now - self._full_since >= self._after_s

    def close(self) -> bool:
        """Take nothing more; whether it was open."""
        was_open = bool(self._widths)
        self._widths = {}
        self._received.clear()
        return was_open

    def open(self, free: int, now: float) -> Mapping[str, int]:
        """Closed, and children are free: the widths to begin with, a message for each.

        Of some queues only, others than the last time: of many that all have messages, all but one
        would be given back.
        """
        first = list(self._turn)[: max(_QUEUES_FIRST, 2 * free)]
        self._turn.rotate(-free)
        self._widths = dict.fromkeys(first, max(1, free))
        self._opened, self._has_freed = now, False
        return self._widths

    def widen(self, free: int, now: float) -> Mapping[str, int]:
        """Called every tick: the widths that are new or have grown, while children keep up.

        A queue that gave half of what it may give may give double.
        """
        grown: dict[str, int] = {}
        if not self._widths or not (free or self._has_freed):
            return grown
        for queue, width in self._widths.items():
            if width < self._width_max and 2 * self._received[queue] >= width:
                grown[queue] = min(2 * width, self._width_max)
        if free or now - self._opened >= self._after_s:
            closed = [queue for queue in self._turn if queue not in self._widths]
            grown |= dict.fromkeys(closed[: len(self._widths)], max(1, free))
        self._widths |= grown
        self._received.clear()
        self._has_freed = False
        return grown
