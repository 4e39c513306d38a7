"""One way to reach RabbitMQ over py-amqp: heartbeat, keepalive and a name operators can see."""

import socket
from collections.abc import Callable
from typing import Any

import kombu
import pika
from kombu.utils.url import parse_url

CONNECT_TIMEOUT_S = 5.0
# A peer that vanished without a word: the kernel gives up after half a minute, whatever is in
# flight.
_SOCKET_SETTINGS = {
    socket.TCP_NODELAY: 1,
    socket.TCP_USER_TIMEOUT: 30_000,
    socket.TCP_KEEPIDLE: 15,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
}


class BrokerAway(Exception):
    """RabbitMQ cannot be reached now, or the connection was given up. What it carried comes due."""


def open_connection(
    url: str,
    *,
    name: str,
    heartbeat_s: int,
    on_blocked: Callable[[str], None] | None = None,
    on_unblocked: Callable[[], None] | None = None,
) -> Any:
    """An open py-amqp connection, for one thread. Raises BrokerAway; the message has no secrets.

    Heartbeats are negotiated; whoever owns the connection has to call `heartbeat_tick`.
    """
    client = kombu.Connection(
        url,
        heartbeat=heartbeat_s,
        connect_timeout=CONNECT_TIMEOUT_S,
        transport_options={
            "client_properties": {"connection_name": name},
            "socket_settings": _SOCKET_SETTINGS,
            "on_blocked": on_blocked,
            "on_unblocked": on_unblocked,
        },
    )
    try:
        return client.transport.establish_connection()
    except Exception as error:  # py-amqp raises many kinds, AttributeError among them
        raise BrokerAway(f"{client.as_uri()}: {type(error).__name__}: {error}") from error


def pika_parameters(url: str, *, name: str, heartbeat_s: int) -> pika.URLParameters:
    """The same URL for pika, which reads how Celery writes the virtual host "/" (`//`) as ""."""
    parameters = pika.URLParameters(url)
    parameters.virtual_host = vhost_of(url)
    parameters.heartbeat = heartbeat_s
    parameters.socket_timeout = CONNECT_TIMEOUT_S
    parameters.client_properties = {"connection_name": name}
    return parameters


def vhost_of(url: str) -> str:
    """The virtual host that an AMQP URL names."""
    return str(parse_url(url)["virtual_host"] or "/")


def close_connection(connection: Any) -> None:
    """Let go of a connection without waiting for the broker. Never raises."""
    try:
        transport = connection.transport if connection.connected else None
        if transport is not None:
            transport.close()
        connection.collect()
        # 128 KiB that would wait for the garbage collector: the rest of a connection is a cycle.
        connection.frame_writer = None
    except Exception:  # noqa: BLE001, S110 - it was given up already, and there is nobody to tell
        pass
