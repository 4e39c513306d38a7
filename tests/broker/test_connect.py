"""One URL means one virtual host, whichever client reads it."""

import gc
import tracemalloc

import pytest

from tests.support.services import Broker
from veltrix.broker.connect import close_connection, open_connection, pika_parameters, vhost_of


@pytest.mark.parametrize(
    ("path", "vhost"), [("", "/"), ("/", "/"), ("//", "/"), ("/%2F", "/"), ("/test_4", "test_4")]
)
def test_both_clients_read_the_same_virtual_host(path: str, vhost: str) -> None:
    url = f"amqp://guest:guest@127.0.0.1:5672{path}"

    assert vhost_of(url) == vhost
    assert pika_parameters(url, name="tests", heartbeat_s=30).virtual_host == vhost


def test_a_closed_connection_gives_its_buffer_back_at_once(broker: Broker) -> None:
    """A process that rarely collects garbage kept 128 KiB of each connection it had lost."""

    def use_one() -> None:
        connection = open_connection(broker.url, name="tests", heartbeat_s=30)
        connection.channel()
        close_connection(connection)

    use_one()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(10):
            use_one()
        assert tracemalloc.get_traced_memory()[0] < 10 * 64 * 1024
    finally:
        tracemalloc.stop()
        gc.enable()
