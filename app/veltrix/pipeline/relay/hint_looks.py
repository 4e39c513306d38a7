"""What a hint relay sees of the queues: which are there, and what room is left beside what is due.

Beside that it gives back what RabbitMQ did not take. All of it is for one thread, the only one of
a hint relay that asks the database or declares.
"""

from collections import deque
from collections.abc import Callable

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from veltrix.broker.declarer import Declarer
from veltrix.broker.message import Message, run_ids_of
from veltrix.pipeline.relay.budget import Budget
from veltrix.pipeline.relay.declaring import Declaring
from veltrix.pipeline.relay.due_rows import make_due, make_runs_due
from veltrix.settings.fields import Settings
from veltrix.telemetry import logger

log = logger("hints")


class HintLooks:
    """One look after another. `lost` and `refused` are filled by others: messages that were."""

    def __init__(
        self,
        settings: Settings,
        declarer: Declarer,
        lost: deque[Message],
        refused: deque[Message],
        monotonic: Callable[[], float],
    ) -> None:
        self._declarer, self._lost, self._refused = declarer, lost, refused
        self._budget = Budget(settings)
        self._declaring = Declaring(declarer, "hints", monotonic)
        self._connections = 0  # as of the last look

    @property
    def occupied_s(self) -> dict[str, float]:
        """How long a run of each measured workflow occupies a worker child, as of the last look."""
        return dict(self._budget.occupied_s)

    def once(self, tx: Connection, now: float, connections: int, *, is_connected: bool) -> bool:
        """Look at all queues; whether there is more to find out at once. `tx` is in autocommit.

        `connections` counts those to RabbitMQ, of which each may be to another one. Raises what the
        database raises, and BrokerAway.
        """
        self._budget.refresh(tx, now)
        if self._connections != connections:
            self._declaring.reconnected()
            self._connections = connections
        self._give_back(tx)
        return is_connected and self._declare(tx)

    def left(self) -> dict[str, int]:
        """Runs that each queue may be given beside what is due; none where it is not there."""
        there = self._declaring.there
        return {
            queue: self._budget.left_beside_due(queue) if queue in there else 0
            for queue in self._budget.queues
        }

    def close(self) -> None:
        """Let RabbitMQ go."""
        self._declarer.close()

    def _declare(self, tx: Connection) -> bool:
        """Make sure of some more queues: hints for those that are there need not wait for all."""
        found = self._declaring.go_on(self._budget.queues, self._budget.depths)
        for queue in sorted(found.missing):
            runs = make_due(tx, queue)
            if runs:
                log.warning("queue.lost", queue=queue, why="missing", runs_made_due=runs)
        if not found.has_news:
            self._declarer.close()
        return found.has_news

    def _give_back(self, tx: Connection) -> None:
        """Runs of messages that were refused, returned or never confirmed are due now.

        Of what was never confirmed, what was handed over as claimed may be in a worker's hands: it
        is due when its hold is over. Their queues are declared again.
        """
        for given, is_refused in ((self._lost, False), (self._refused, True)):
            taken = [given.popleft() for _ in range(len(given))]
            if taken:
                queues = {message.queue for message in taken}
                log.warning("hints.lost", queues=sorted(queues), messages=len(taken))
                self._declaring.doubt(queues)
                try:
                    make_runs_due(tx, run_ids_of(taken), is_refused=is_refused)
                except SQLAlchemyError:
                    given.extend(taken)  # for the next look
                    raise
