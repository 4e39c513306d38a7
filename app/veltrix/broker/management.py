"""RabbitMQ's management API: policies, queue totals, and what a broker really has.

Without it AMQP still tells whether a queue exists; that look goes through pika.
"""

import base64
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from veltrix.broker.connect import BrokerAway, pika_parameters
from veltrix.broker.topology import Exchange, LiveQueue, LiveTopology, Policy, Topology
from veltrix.client.whole_answer import WholeAnswer
from veltrix.tls import client_context

TIMEOUT_S = 5.0  # for each piece of an answer
WHOLE_S = 15.0  # for all that is asked together


class ManagementRefused(Exception):
    """The management API answered, and it was no."""

    def __init__(self, method: str, path: str, status: int, answer: str) -> None:
        super().__init__(f"{method} {path}: {status} {answer}")
        self.status = status


class Management:
    """The API of one virtual host. `url` is http://user:password@host:port, without a path.

    Over https its certificate and name are checked by the CAs in `ca_file`, or the system's.
    """

    def __init__(self, url: str, vhost: str, ca_file: Path | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "localhost", parts.port
        self._tls = client_context(ca_file) if parts.scheme == "https" else None
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        self._vhost = quote(vhost, safe="")
        self._kept: http.client.HTTPConnection | None = None
        self._whole: WholeAnswer | None = None

    @contextmanager
    def one_connection(self, whole_s: float = WHOLE_S) -> Iterator[None]:
        """All requests of the block go over one connection, which is closed at its end.

        All answers together have `whole_s`; what comes later is BrokerAway.
        """
        kept = self._kept = self._connection()
        with WholeAnswer(whole_s, lambda: _hang_up(kept)) as whole:
            self._whole = whole
            try:
                yield
            finally:
                self._kept = self._whole = None
                kept.close()

    def messages_by_queue(self) -> dict[str, int]:
        """Messages per queue, unacknowledged ones too, up to 5 s old. Raises BrokerAway."""
        found = self.get(f"/api/queues/{self._vhost}?columns=name,messages")
        return {queue["name"]: queue.get("messages", 0) for queue in found}

    def bindings_of(self, queue: str) -> list[tuple[str, str, dict[str, Any]]]:
        """(exchange, routing key, arguments) of each. Raises BrokerAway or ManagementRefused."""
        found = self.get(f"/api/queues/{self._vhost}/{quote(queue, safe='')}/bindings")
        return [(b["source"], b["routing_key"], b["arguments"]) for b in found if b["source"]]

    def put_policy(self, policy: Policy) -> None:
        """The policy is as given afterwards. Raises BrokerAway or ManagementRefused."""
        self._ask(
            "PUT",
            f"/api/policies/{self._vhost}/{quote(policy.name, safe='')}",
            {
                "pattern": policy.pattern,
                "definition": policy.definition,
                "priority": policy.priority,
                "apply-to": "queues",
            },
        )

    def live(self) -> LiveTopology:
        """All exchanges, queues, bindings and policies. Raises BrokerAway or ManagementRefused."""
        host = self._vhost
        return LiveTopology(
            exchanges={
                x["name"]: Exchange(x["name"], x["type"], x["arguments"])
                for x in self.get(f"/api/exchanges/{host}")
            },
            queues={
                q["name"]: LiveQueue(
                    q["name"], q.get("type"), q.get("messages", 0), q.get("consumers", 0)
                )
                for q in self.get(f"/api/queues/{host}")
            },
            bindings={
                (b["source"], b["destination"], b["routing_key"])
                for b in self.get(f"/api/bindings/{host}")
            },
            policies={
                p["name"]: Policy(p["name"], p["pattern"], p["definition"], p["priority"])
                for p in self.get(f"/api/policies/{host}")
            },
        )

    def get(self, path: str) -> Any:
        """What is there, `{vhost}` being ours. Raises BrokerAway or ManagementRefused."""
        return json.loads(self._ask("GET", path.replace("{vhost}", self._vhost)))

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=TIMEOUT_S, context=self._tls
        )

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        connection = self._kept or self._connection()
        self._check_time()
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), self._headers
            )
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # one that is kept connects anew
            raise BrokerAway(f"management at {self._host}: {error}") from error
        finally:
            if connection is not self._kept:
                connection.close()
        self._check_time()  # what was cut off looks as if it had ended
        if response.status >= 500:
            raise BrokerAway(f"management at {self._host}: {response.status}")
        if response.status >= 400:
            raise ManagementRefused(method, path, response.status, answer.decode(errors="replace"))
        return answer

    def _check_time(self) -> None:
        if self._whole is not None and self._whole.is_late:
            raise BrokerAway(f"management at {self._host}: its answers take too long")


def _hang_up(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):  # it is closed already
        connection.sock.shutdown(socket.SHUT_RDWR)


def live_by_amqp(broker_url: str, topology: Topology) -> LiveTopology:
    """Which of the wanted exchanges and queues exist: all that passive declares can tell.

    Types of queues, bindings and policies stay unknown. Raises BrokerAway.
    """
    exchanges: dict[str, Exchange] = {}
    queues: dict[str, LiveQueue] = {}
    try:
        parameters = pika_parameters(broker_url, name="veltrix topology", heartbeat_s=30)
        connection = pika.BlockingConnection(parameters)
        try:
            for exchange in topology.exchanges:
                if _exists(connection, "exchange_declare", exchange.name) is not None:
                    exchanges[exchange.name] = exchange
            for queue in topology.queues:
                found = _exists(connection, "queue_declare", queue.name)
                if found is not None:
                    counts = found.method
                    queues[queue.name] = LiveQueue(
                        queue.name, None, counts.message_count, counts.consumer_count
                    )
        finally:
            connection.close()
    except (AMQPError, OSError) as error:
        raise BrokerAway(f"{type(error).__name__}: {error}") from error
    return LiveTopology(exchanges=exchanges, queues=queues, bindings=None, policies=None)


def _exists(connection: Any, method: str, name: str) -> Any:
    channel = connection.channel()
    try:
        found = getattr(channel, method)(name, passive=True)
        channel.close()
    except ChannelClosedByBroker as error:
        if error.reply_code != 404:
            raise
        return None
    return found
