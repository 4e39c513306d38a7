"""The ways to reach RabbitMQ: heartbeat, keepalive, a name operators can see, and TLS checked.

Nobody else makes a connection, or the parameters of one: none can forget to check whom it talks to.
"""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import kombu
import pika
from kombu.utils.url import parse_url

from veltrix.settings.fields import Settings
from veltrix.tls import LEAST, client_context

CONNECT_TIMEOUT_S = 5.0
_CA_FILE = "cacertfile"  # in a URL, as RabbitMQ's own clients are told it
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


def broker_url(settings: Settings) -> str:
    """All that leads to RabbitMQ, as one URL: the file of CAs too. For the functions below only."""
    assert settings.broker_url is not None
    url = settings.broker_url.get_secret_value()
    if settings.broker_ca_file is None or urlsplit(url).scheme != "amqps":
        return url
    return f"{url}?{urlencode({_CA_FILE: str(settings.broker_ca_file)})}"


def address_of(url: str) -> str:
    """The URL for py-amqp and pika: without what `tls_of` reads in it."""
    return url.partition("?")[0]


def tls_of(url: str) -> dict[str, Any] | bool:
    """kombu's `ssl` for this URL; False where no TLS is spoken.

    py-amqp checks the server's name only if it is told one, and kombu makes 127.0.0.1 of localhost.
    """
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return False
    return {
        "server_hostname": unquote(parts.hostname or "localhost"),
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": _ca_file_of(url),
        "tls_minimum_version": LEAST,
    }


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
        address_of(url),
        ssl=tls_of(url),
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
    parameters = pika.URLParameters(address_of(url))
    if parameters.ssl_options is not None:
        context = client_context(_ca_file_of(url))
        parameters.ssl_options = pika.SSLOptions(context, parameters.host)
    parameters.virtual_host = vhost_of(url)
    parameters.heartbeat = heartbeat_s
    parameters.socket_timeout = CONNECT_TIMEOUT_S
    parameters.client_properties = {"connection_name": name}
    return parameters


def vhost_of(url: str) -> str:
    """The virtual host that an AMQP URL names."""
    return str(parse_url(address_of(url))["virtual_host"] or "/")


def _ca_file_of(url: str) -> str | None:
    return parse_qs(urlsplit(url).query).get(_CA_FILE, [None])[0]


def drain_decrypted(connection: kombu.Connection) -> None:
    """Take in what is here and in no socket, where whoever waits for sockets would not look.

    TLS reads a record of up to 16 KiB at a time. What stands in it behind an answer that was waited
    for stays in memory until RabbitMQ says more. Raises what `drain_events` does.
    """
    open_ = connection._connection  # noqa: SLF001 - the property connects again
    sock = getattr(getattr(open_, "_transport", None), "sock", None)
    if isinstance(sock, ssl.SSLSocket):
        with suppress(TimeoutError):
            while sock.pending():
                connection.drain_events(timeout=0)


def close_connection(connection: Any) -> None:
    """Let go of a connection without waiting for the broker. Never raises."""
    try:
        transport = connection.transport if connection.connected else None
        if transport is not None:
            transport.sock.settimeout(0)  # TLS would wait for the other side's goodbye
            transport.close()
        connection.collect()
        # 128 KiB that would wait for the garbage collector: the rest of a connection is a cycle.
        connection.frame_writer = None
    except Exception:  # noqa: BLE001, S110 - it was given up already, and there is nobody to tell
        pass
