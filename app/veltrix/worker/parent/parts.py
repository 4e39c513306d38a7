"""What a worker's consumer is given, and Celery does not pass on."""

from collections.abc import Callable

from veltrix.broker.broken import Health
from veltrix.broker.connect import broker_url
from veltrix.settings.fields import Settings
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.places import Places
from veltrix.worker.stamps import Stamps
from veltrix.worker.troubles import Troubles


class Parent:
    """Set on the Celery app, for the consumer to find."""

    def __init__(
        self,
        settings: Settings,
        queues: list[str],
        stamps: Stamps,
        places: Places,
        troubles: Troubles,
        mailbox: Mailbox,
        new_token: Callable[[], str],
        monotonic: Callable[[], float],
    ) -> None:
        self.settings, self.queues, self.stamps = settings, queues, stamps
        self.places, self.troubles, self.mailbox = places, troubles, mailbox
        self.new_token, self.monotonic = new_token, monotonic
        self.exit_code = 0  # of a worker that leaves by itself
        self.unserved: dict[str, Health] = {}  # queues set aside until somebody has mended them

    @property
    def broker_url(self) -> str:
        """RabbitMQ's, with its password."""
        return broker_url(self.settings)
