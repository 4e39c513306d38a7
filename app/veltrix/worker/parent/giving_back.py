"""What waits in a worker and no child of it is about to have goes to whoever is free."""

from collections import deque
from collections.abc import Callable
from typing import Any

from veltrix import telemetry
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.parent.collector import Collector, Delivery


class GivingBack:
    """To RabbitMQ, with `requeue(message)`; to the ledger, what came as claimed.

    For nobody else may begin that by its message. The relay has those runs again at once. What the
    mailbox has no room for now waits here for the next `flush`.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        requeue: Callable[[Any], object],
        acknowledge: Callable[[Any], object],
    ) -> None:
        self._mailbox, self._requeue, self._acknowledge = mailbox, requeue, acknowledge
        self._waiting: deque[tuple[str, list[str]]] = deque()

    def give_back(self, collector: Collector) -> list[Delivery]:
        """All that waits and may be given back; those messages, which are not ours any more."""
        taken = collector.take_back()
        for delivery, run_ids in taken:
            is_handed = self.hand_back(delivery, run_ids)
            (self._acknowledge if is_handed else self._requeue)(delivery.request.message)
        telemetry.messages_given_back.inc(len(taken))
        return [delivery for delivery, _ in taken]

    def hand_back(self, delivery: Delivery, run_ids: list[str]) -> bool:
        """Runs of a message that came as claimed, of which no child has any; whether it did.

        From now on its message begins nothing here.
        """
        if delivery.handed is None or delivery.token is None:
            return False
        unseen = [run_id for run_id in run_ids if run_id not in delivery.plain]
        self._waiting.append((delivery.token, unseen))
        delivery.handed = None
        self.flush()
        return True

    def flush(self) -> None:
        """Put as much as there is room for into the mailbox."""
        while self._waiting and self._mailbox.put(*self._waiting[0]):
            self._waiting.popleft()

    @property
    def is_done(self) -> bool:
        """Children have taken all of it."""
        return not self._waiting and self._mailbox.is_empty
