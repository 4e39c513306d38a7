"""How many runs may be hinted now: what the last look at the queues left, and who took it since.

Pure, and not thread-safe: its owner holds a lock. Seconds of the owner's monotonic clock.
"""

from collections.abc import Callable, Iterable, Mapping

from veltrix.broker.message import Message

STALE_S = 3.0  # a look that is older says nothing any more
REFUSED_PAUSE_S = 1.0
_LONG_AGO = -1e9


class Credit:
    """Of all queues. `runs_max` is how many runs may be on their way, not confirmed.

    `on_low` is called when half of what the last look found for a queue is gone.
    """

    def __init__(self, runs_max: int, on_low: Callable[[], object]) -> None:
        self._runs_max, self._on_low = runs_max, on_low
        self._runs_unconfirmed = 0
        self._left: dict[str, int] = {}
        self._low: dict[str, int] = {}
        self._paused_until: dict[str, float] = {}
        self._looked_at = _LONG_AGO
        self.used_at = _LONG_AGO  # when somebody last asked for some

    def take(self, queue: str, runs: int, now: float, *, is_open: bool) -> int:
        """So many of these runs are the caller's to hint; none while RabbitMQ is not `is_open`."""
        self.used_at = now
        if not is_open or now - self._looked_at >= STALE_S:
            return 0
        if self._paused_until.get(queue, 0.0) > now:
            return 0
        left = self._left.get(queue, 0)
        granted = max(0, min(runs, left, self._runs_max - self._runs_unconfirmed))
        self._left[queue] = left - granted
        if left - granted < self._low.get(queue, 0):
            self._on_low()
        return granted

    def sent(self, messages: Iterable[Message]) -> int:
        """These are on their way; how many runs they carry."""
        runs = sum(len(message.run_ids) for message in messages)
        self._runs_unconfirmed += runs
        return runs

    def answered(self, messages: Iterable[Message]) -> None:
        """RabbitMQ has said what became of these."""
        self._runs_unconfirmed -= sum(len(message.run_ids) for message in messages)

    def refused(self, messages: Iterable[Message], now: float) -> None:
        """Their queues get nothing for a while."""
        until = now + REFUSED_PAUSE_S
        self._paused_until.update({message.queue: until for message in messages})

    def looked(self, left: Mapping[str, int], began: float) -> None:
        """A look at the queues, begun then, left so much for each."""
        self._left, self._looked_at = dict(left), began
        self._low = {queue: runs // 2 for queue, runs in left.items()}

    def forget(self) -> None:
        """The connection is gone: nothing is on its way, and nothing may be until a new look."""
        self._runs_unconfirmed = 0
        self._left = {}
