"""The Celery events that Flower reads: sent when they can be, and never waited for."""

from typing import Any

from celery.events.dispatcher import EventDispatcher

from app import telemetry


class CeleryEvents(EventDispatcher):
    """Publishes on the connection it was given, and nothing else.

    Celery's declares its exchange with every event. Where the connection is broken, kombu connects
    again for that without end, in the middle of the loop: `veltrix prove` met a worker that stood
    still for good. Here a broken connection is left to the consumer, which notices it in its loop.
    """

    is_blocked = False

    def enable(self) -> None:
        """Declares the exchange, once for each connection."""
        super().enable()
        self.exchange(self.producer.channel).declare()

    def _publish(self, event: Any, producer: Any, routing_key: str, **_retry: Any) -> None:
        # RabbitMQ reads nothing while its alarm is raised: what is sent then fills the socket, and
        # the write that finds it full would wait until the alarm is over.
        if producer is None or self.is_blocked:
            return
        try:
            producer.publish(
                event,
                routing_key=routing_key,
                exchange=self.exchange.name,
                serializer=self.serializer,
                headers=self.headers,
                delivery_mode=self.delivery_mode,
            )
        except self.connection.connection_errors + self.connection.channel_errors:
            self._outbound_buffer.append((event, routing_key))
        except Exception as error:  # noqa: BLE001 - nothing of a run hangs on what Flower shows
            telemetry.logger("worker").warning("event.dropped", error=repr(error)[:200])
