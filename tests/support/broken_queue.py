"""Break a quorum queue as a log that cannot be read does, or have it say nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.services import Broker
from veltrix.prove.faults.broker import rabbitmqctl


def break_queue(broker: Broker, queue: str) -> None:
    """RabbitMQ goes on naming the queue, and nobody runs it."""
    rabbitmqctl(broker.node, "eval", f"ok = ra:stop_server(quorum_queues, {_of(broker, queue)}).")


@contextmanager
def silent(broker: Broker, queue: str) -> Iterator[None]:
    """Whoever runs the queue answers nothing meanwhile."""
    rabbitmqctl(broker.node, "eval", f"sys:suspend({_of(broker, queue)}).")
    try:
        yield
    finally:
        rabbitmqctl(broker.node, "eval", f"sys:resume({_of(broker, queue)}).")


def _of(broker: Broker, queue: str) -> str:
    return f"{{'{broker.vhost}_{queue}', node()}}"
