"""RabbitMQ users with few rights, or with those of one of our processes."""

import json
import urllib.request
from base64 import b64encode
from typing import Any
from urllib.parse import quote, urlsplit

from tests.support.services import Broker
from veltrix.broker.rights import User


def limited_user(management_url: str, broker_url: str, name: str, *, read: str = ".*") -> str:
    """The broker's URL for a new user without the configure right, who reads what matches."""
    rights = {"configure": "", "write": ".*", "read": read}
    return _make(management_url, broker_url, name, name, "", rights)


def account_of(broker: Broker, user: User, password: str = "secret") -> tuple[str, str]:
    """AMQP and management URL of a new user of this virtual host with the rights of `user`.

    Users belong to the whole node, so this one's name ends with the virtual host's.
    """
    name = f"{user.name}-{broker.vhost}"
    rights = {"configure": user.configure, "write": user.write, "read": user.read}
    url = _make(broker.management_url, broker.url, name, password, ",".join(user.tags), rights)
    api = urlsplit(broker.management_url)
    return url, f"http://{name}:{password}@{api.hostname}:{api.port}"


def _make(
    management_url: str, broker_url: str, name: str, password: str, tags: str, rights: Any
) -> str:
    api = urlsplit(management_url)
    head = {
        "authorization": "Basic " + b64encode(f"{api.username}:{api.password}".encode()).decode(),
        "content-type": "application/json",
    }

    def put(path: str, body: Any) -> None:
        request = urllib.request.Request(
            f"http://{api.hostname}:{api.port}/api/{path}",
            json.dumps(body).encode(),
            head,
            method="PUT",
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            answer.read()

    url = urlsplit(broker_url)
    put(f"users/{name}", {"password": password, "tags": tags})
    put(f"permissions/{url.path[1:]}/{name}", rights)
    return url._replace(netloc=f"{name}:{quote(password)}@{url.hostname}:{url.port}").geturl()
