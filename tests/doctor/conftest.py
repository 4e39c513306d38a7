"""A broker with our topology, and the rules held against what servers really say."""

import json
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.support.services import Broker
from veltrix.broker.connect import close_connection, open_connection
from veltrix.broker.management import Management
from veltrix.broker.topology import apply, plan, wanted
from veltrix.doctor.examine import Examination, Reader, examine
from veltrix.doctor.rule import Rule

QUEUES = ["orders", "mails"]
Ask = Callable[..., Any]


@pytest.fixture
def ask(broker: Broker) -> Ask:
    """`ask("PUT", "policies/{vhost}/x", {...})` of RabbitMQ's management API."""
    api = urlsplit(broker.management_url)
    login = b64encode(f"{api.username}:{api.password}".encode()).decode()
    head = {"authorization": f"Basic {login}", "content-type": "application/json"}

    def call(method: str, path: str, body: Any = None) -> Any:
        place = path.replace("{vhost}", quote(broker.vhost, safe=""))
        request = urllib.request.Request(
            f"http://{api.hostname}:{api.port}/api/{place}",
            None if body is None else json.dumps(body).encode(),
            head,
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None

    return call


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A py-amqp channel."""
    connection = open_connection(broker.url, name="tests", heartbeat_s=30)
    yield connection.channel()
    close_connection(connection)


@pytest.fixture
def topology(broker: Broker, channel: Any) -> None:
    """Our exchanges, queues, bindings and policies are there."""
    management = Management(broker.management_url, broker.vhost)
    apply(plan(management.live(), wanted(QUEUES)), channel, management.put_policy)


def unaccepted(found: Examination) -> set[str]:
    """Ids of what counts."""
    return {one.id for one in found.findings if one.accepted is None}


def held_against(
    rules: Iterable[Rule], readers: Mapping[type, Reader], *, is_production: bool = False
) -> Examination:
    """An examination in which every rule was checked; no secret is in it."""
    found = examine(rules, readers, is_production=is_production)
    assert found.not_checked == []
    return found
