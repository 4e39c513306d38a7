"""What a relay holds towards RabbitMQ, made from the settings: both relays need the same."""

from collections.abc import Iterable

from veltrix.broker import broken
from veltrix.broker.connect import broker_url
from veltrix.broker.declarer import Declarer
from veltrix.broker.publisher import Publisher
from veltrix.settings.fields import Settings


def make_publisher(settings: Settings, name: str) -> Publisher:
    """A publisher with the limits of the settings, not connected yet."""
    return Publisher(
        broker_url(settings),
        name=name,
        unconfirmed_max=settings.unconfirmed_messages_max,
        confirm_timeout_s=settings.confirm_timeout_s,
        heartbeat_s=settings.broker_heartbeat_s,
    )


def make_declarer(settings: Settings, name: str) -> Declarer:
    """What declares and looks at queues, not connected yet."""
    return Declarer(
        broker_url(settings),
        name=name,
        heartbeat_s=settings.broker_heartbeat_s,
        queue_type=settings.queue_type,
    )


class Asking:
    """Asks after queues, makes them anew: by connections of that name which serve one question."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._url, self._name = broker_url(settings), name
        self._type = settings.queue_type

    def health_of(self, queue: str) -> broken.Health:
        """See `veltrix.broker.broken`."""
        return broken.health_of(self._url, queue, name=self._name)

    def renew(self, queue: str, bindings: Iterable[broken.Bound]) -> broken.Renewal:
        """See `veltrix.broker.broken`."""
        return broken.renew(self._url, queue, bindings, name=self._name, type_=self._type)

    def change_type(
        self, queue: str, bindings: Iterable[broken.Bound]
    ) -> tuple[broken.Changed, str]:
        """See `veltrix.broker.broken`."""
        return broken.change_type(self._url, queue, bindings, name=self._name, type_=self._type)
