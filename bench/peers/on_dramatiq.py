"""Dramatiq on RabbitMQ and SQLAlchemy.

Confirmed sends (`confirm_delivery`, with which a message that cannot be routed is an error too),
an id as argument (docs, best practices: "simple messages"), actors that may be run again, the
default middleware with its retries, and Dramatiq's own durable classic queue.
"""

import os
from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.peers.front import make_front
from bench.peers.ledger import accept, count_open, run_once

broker = RabbitmqBroker(url=os.environ["PEER_BROKER_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)
web = make_front(accept, count_open)


@dramatiq.actor(queue_name="peer")
def run(event_id: str) -> None:
    """One event."""
    run_once(event_id)


def publish(event_ids: Sequence[str]) -> None:
    """Each message is confirmed before the next is sent: Dramatiq has no other way."""
    for event_id in event_ids:
        run.send(event_id)
