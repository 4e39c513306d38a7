"""Messages that reached nobody: each becomes a row, and the runs it names are due."""

from itertools import count
from operator import itemgetter
from typing import Any

import pika

from tests.path.site import Open, Site, site
from tests.support.wait import until
from veltrix.broker.names import INBOUND

__all__ = ["site"]


def publish(seen: Site, exchange: str, routing_key: str, body: bytes, **properties: Any) -> None:
    """One message by another program, confirmed."""
    parameters = pika.URLParameters(seen.platform.broker_url)
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(exchange, routing_key, body, pika.BasicProperties(**properties))
    finally:
        connection.close()


def reject_all(seen: Site, queue: str) -> int:
    """Another program rejects every message of the queue; how many."""
    connection = pika.BlockingConnection(pika.URLParameters(seen.platform.broker_url))
    try:
        channel = connection.channel()
        for rejected in count():
            method, _, _ = channel.basic_get(queue)
            if method is None:
                return rejected
            channel.basic_reject(method.delivery_tag, requeue=False)
        raise AssertionError
    finally:
        connection.close()


def wait_topology(seen: Site) -> None:
    """The queue is there, and its policy sends what is rejected to the dead letters."""
    until(lambda: "fast" in seen.queues(), what="the queue")
    policies = "policies/{vhost}"
    until(lambda: "veltrix.runs" in map(itemgetter("name"), seen.manage("GET", policies)), 5)


def test_what_is_rejected_unroutable_or_foreign_is_a_row_and_a_run_it_names_is_due(
    site: Open,
) -> None:
    seen = site(HOLD_S=60)
    wait_topology(seen)

    publish(seen, INBOUND, "nobody", b"to nobody's queue", content_type="text/plain")
    publish(seen, "", "fast", b"\xff no task", content_type="application/json")
    seen.post(range(100))

    letters = "select body, reason from dead_letters where run_ids = '{}' order by body"
    foreign = [(b"to nobody's queue", "unroutable"), (b"\xff no task", "no_task")]
    until(lambda: seen.ask(letters) == foreign, what="two rows")
    seen.wait_settled(100, 10)
    # Told to end, it acknowledges what it settled, of which nothing may come back.
    seen.platform.terminate("worker-1")
    assert seen.platform.wait_ended("worker-1") == 0

    run_id = seen.post([100])[0]["runs"][0]["id"]
    until(lambda: reject_all(seen, "fast") == 1, what="its message to be rejected")

    named = "select run_ids[1]::text, queue, reason from dead_letters where run_ids <> '{}'"
    until(lambda: seen.ask(named) == [(run_id, "fast", "rejected")], what="its row")
    seen.start("worker-1")
    seen.wait_settled(101, 20)
    seen.check_ran_once(101)
    seen.check_books(101)
