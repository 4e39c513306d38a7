"""A RabbitMQ user with few rights."""

import json
import urllib.request
from base64 import b64encode
from typing import Any
from urllib.parse import urlsplit


def limited_user(management_url: str, broker_url: str, name: str, *, read: str = ".*") -> str:
    """The broker's URL for a new user without the configure right, who reads what matches."""
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
    put(f"users/{name}", {"password": name, "tags": ""})
    put(f"permissions/{url.path[1:]}/{name}", {"configure": "", "write": ".*", "read": read})
    return url._replace(netloc=f"{name}:{name}@{url.hostname}:{url.port}").geturl()
