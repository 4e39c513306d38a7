"""What a relay holds towards RabbitMQ, made from the settings: both relays need the same."""

from app.broker.declarer import Declarer
from app.broker.publisher import Publisher
from app.settings import Settings


def make_publisher(settings: Settings, name: str) -> Publisher:
    """A publisher with the limits of the settings, not connected yet."""
    assert settings.broker_url is not None
    return Publisher(
        settings.broker_url.get_secret_value(),
        name=name,
        unconfirmed_max=settings.unconfirmed_messages_max,
        confirm_timeout_s=settings.confirm_timeout_s,
        heartbeat_s=settings.broker_heartbeat_s,
    )


def make_declarer(settings: Settings, name: str) -> Declarer:
    """What declares and looks at queues, not connected yet."""
    assert settings.broker_url is not None
    return Declarer(
        settings.broker_url.get_secret_value(), name=name, heartbeat_s=settings.broker_heartbeat_s
    )
