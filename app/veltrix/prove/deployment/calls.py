"""HTTP calls of the harness: to apis of its own, and to RabbitMQ's management API."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

JSON = "application/json"
_TIMEOUT_S = 30.0
_NONE: Mapping[str, str] = {}


def get(url: str) -> bytes:
    """What an answer says. Raises OSError."""
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as told:  # noqa: S310 - on loopback
        body: bytes = told.read()
    return body


def post(
    url: str, body: bytes, content_type: str = JSON, headers: Mapping[str, str] = _NONE
) -> tuple[int, dict[str, Any], str]:
    """Status (0: no answer), what a 2xx says, and why there is nothing of the kind."""
    told_by = {"content-type": content_type, **headers}
    request = urllib.request.Request(url, body, told_by)  # noqa: S310 - on loopback
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as told:  # noqa: S310
            return int(told.status), dict(json.loads(told.read())), ""
    except urllib.error.HTTPError as error:
        return error.code, {}, f"HTTP {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, {}, f"{type(error).__name__}: {error}"[:200]


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels. Raises OSError."""
    total = 0.0
    for line in get(f"{url}/metrics").decode().splitlines():
        words = line.rsplit(" ", 1)
        if words[0].partition("{")[0] == name:
            total += float(words[1])
    return total


def manage(management_url: str, broker_url: str, method: str, path: str, body: Any = None) -> Any:
    """RabbitMQ's management API; `{vhost}` in the path is the broker URL's. Raises OSError."""
    parts = urlsplit(management_url)
    vhost = quote(urlsplit(broker_url).path[1:], safe="%")
    url = f"http://{parts.hostname}:{parts.port}/api/{path.format(vhost=vhost)}"
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    passwords.add_password(
        None, url, parts.username or "", parts.password or "", is_authenticated=True
    )
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": JSON}, method=method)
    with opener.open(request, timeout=20) as told:
        answer = told.read()
    return json.loads(answer) if answer else None
