"""How the worker's parent connects to RabbitMQ."""

import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from app import telemetry
from app.worker.listening import Listening

RECONNECT_S, RECONNECT_S_MAX = 0.2, 1.0
_ANSWER_S = 10.0  # nothing we ask of RabbitMQ, and nothing we tell it, takes longer
_GOODBYE_S = 0.5  # for each of half a dozen answers


class ConnectedConsumer(Consumer):
    """Celery's consumer, back within a second when RabbitMQ is, and never deaf or stuck for long.

    The loop that hands out lists is the one that talks to RabbitMQ, so no call of it may wait for
    an answer without a limit: a server that lost its power, or stands still, sends none.
    """

    _listening: Listening | None  # by the connection there is

    def listen(self, receive: Callable[[Any], None], now: float) -> None:
        """To all queues, by this new connection, in the place of Celery's consumer."""
        queues = self.task_consumer.queues
        for queue in queues:
            self.task_consumer.cancel_by_queue(queue)
        self._listening = Listening(
            self.connection, queues, self.qos.value, receive, self.on_decode_error, now
        )

    def listen_anew(self, busy: Collection[str], now: float) -> None:
        """See `Listening.listen_anew`."""
        if self._listening is not None:
            self._listening.listen_anew(busy, now)

    def take_no_more(self) -> None:
        """What is on its way is still taken."""
        if self._listening is not None:
            self._listening.take_no_more()

    def say_goodbye_soon(self) -> None:
        """How long the end of our connections may take: RabbitMQ may have nothing to say to it."""
        for connection in self._connections():
            bound_open_broker_sockets(connection, _GOODBYE_S)

    def acknowledge(self, message: Any) -> None:
        """Where its connection is gone it comes again, and its runs are found to be settled."""
        with suppress(*self.connection_errors, *self.channel_errors):
            message.ack()

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Hang up first: a polite end of a broken connection would wait for an answer."""
        for connection in self._connections():
            with suppress(OSError, AttributeError):
                # Not the properties: they connect again.
                connection._connection._transport.sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001
        super().on_connection_error_after_connected(exc)

    def _connections(self) -> list[Any]:
        dispatcher = self.event_dispatcher
        both = [self.connection, dispatcher.connection if dispatcher is not None else None]
        return [connection for connection in both if connection is not None]

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """For events only, which Flower reads: waiting for a confirm of each would stop the hub."""

        def block(*, is_blocked: bool) -> None:
            if self.event_dispatcher is not None:
                self.event_dispatcher.is_blocked = is_blocked

        options = {
            "confirm_publish": False,
            "on_blocked": lambda _reason: block(is_blocked=True),
            "on_unblocked": lambda: block(is_blocked=False),
        }
        connection = self.app.connection_for_write(
            url=url, heartbeat=heartbeat, transport_options=options
        )
        return self.ensure_connected(connection)

    def ensure_connected(self, conn: Any) -> Any:
        """Celery's pauses grow by 2 s to 30 s: a node that is back would be missed for so long."""

        def say(error: Exception, pause_s: float) -> None:
            telemetry.logger("worker").warning("broker.away", error=str(error), retry_in_s=pause_s)

        connected = conn.ensure_connection(
            say,
            callback=maybe_shutdown,
            interval_start=RECONNECT_S,
            interval_step=RECONNECT_S,
            interval_max=RECONNECT_S_MAX,
        )
        bound_open_broker_sockets(connected, _ANSWER_S)
        return connected
