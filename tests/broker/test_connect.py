"""One URL means one virtual host, whichever client reads it."""

import pytest

from app.broker.connect import pika_parameters, vhost_of


@pytest.mark.parametrize(
    ("path", "vhost"), [("", "/"), ("/", "/"), ("//", "/"), ("/%2F", "/"), ("/test_4", "test_4")]
)
def test_both_clients_read_the_same_virtual_host(path: str, vhost: str) -> None:
    url = f"amqp://guest:guest@127.0.0.1:5672{path}"

    assert vhost_of(url) == vhost
    assert pika_parameters(url, name="tests", heartbeat_s=30).virtual_host == vhost
