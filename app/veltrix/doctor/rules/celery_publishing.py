"""What a Celery application loses on the way to RabbitMQ."""

from collections.abc import Iterator

from veltrix.doctor.facts.celery_app import CeleryApp, transport_options
from veltrix.doctor.rule import Evidence, Rules, Severity

rules = Rules("publishing")


def of_setting(app: CeleryApp, key: str, cure: str, found: str | None = None) -> Evidence:
    """A setting of the application that is not safe, with its value and where it was set."""
    origin, file, line = app.origin(key)
    told = f"{key} = {app.config.get(key)!r}" if found is None else found
    return Evidence(found=told, origin=origin, cure=cure, file=file, line=line)


@rules.rule(
    "P01",
    Severity.LOSS,
    CeleryApp,
    title="messages are sent without confirms",
    why="RabbitMQ may never read a message, or drop it, and apply_async returns as if it had it.",
    safe='broker_transport_options = {"confirm_publish": True}',
    source="https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/rabbitmq.html",
)
def sent_without_confirms(app: CeleryApp) -> Iterator[Evidence]:
    options = transport_options(app)
    if app.is_on_amqp and not options.get("confirm_publish"):
        found = f"broker_transport_options has confirm_publish {options.get('confirm_publish')!r}"
        cure = 'broker_transport_options = {"confirm_publish": True}'
        yield of_setting(app, "broker_transport_options", cure, found)
