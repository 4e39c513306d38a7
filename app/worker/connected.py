"""How the worker's parent connects to RabbitMQ."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from app import telemetry

RECONNECT_S, RECONNECT_S_MAX = 0.2, 1.0
CONSUME_AGAIN_S = 10.0
_ANSWER_S = 10.0  # nothing we ask of RabbitMQ, and nothing we tell it, takes longer
_GOODBYE_S = 0.5  # for each of half a dozen answers


class ConnectedConsumer(Consumer):
    """Celery's consumer, back within a second when RabbitMQ is, and never deaf or stuck for long.

    The loop that hands out lists is the one that talks to RabbitMQ, so no call of it may wait for
    an answer without a limit: a server that lost its power, or stands still, sends none.
    """

    _heard: dict[str, float]  # by queue: its last message, or when it was last consumed anew

    def hear(self, queues: Iterable[str], now: float) -> None:
        """These queues are known to be consumed from, now."""
        self._heard.update(dict.fromkeys(queues, now))

    def consume_again(self, now: float) -> None:
        """Consume anew from every queue that gave nothing for 10 s; waits for no answer.

        RabbitMQ 3.10 may not tell the consumers of a quorum queue that it was deleted (seen under
        load, when it is declared again at once): they would wait for ever at a queue that is gone.
        Under the same tag, so that messages on their way are taken as before.
        """
        consumer = self.task_consumer
        for name, heard in self._heard.items():
            if consumer is None or now - heard < CONSUME_AGAIN_S:
                continue
            self._heard[name] = now
            tag = consumer._active_tags.pop(name, None)  # noqa: SLF001 - kombu only cancels for good
            if tag is not None:
                consumer.channel.basic_cancel(tag, nowait=True)
                consumer._basic_consume(consumer._queues[name], tag)  # noqa: SLF001

    def take_no_more(self) -> None:
        """Cancel every consumer; waits for no answer. What is on its way is still taken."""
        consumer = self.task_consumer
        if consumer is None:
            return
        with suppress(*self.connection_errors, *self.channel_errors):
            for tag in consumer._active_tags.values():  # noqa: SLF001 - kombu's waits
                consumer.channel.basic_cancel(tag, nowait=True)
        consumer._active_tags.clear()  # noqa: SLF001

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
