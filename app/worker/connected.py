"""How the worker's parent connects to RabbitMQ."""

from collections.abc import Iterable
from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from app import telemetry

RECONNECT_S, RECONNECT_S_MAX = 0.2, 1.0
CONSUME_AGAIN_S = 10.0


class ConnectedConsumer(Consumer):
    """Celery's consumer, back within a second when RabbitMQ is, and never deaf for long."""

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

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """For events only, which Flower reads: waiting for a confirm of each would stop the hub."""
        options = {"confirm_publish": False}
        connection = self.app.connection_for_write(
            url=url, heartbeat=heartbeat, transport_options=options
        )
        return self.ensure_connected(connection)

    def ensure_connected(self, conn: Any) -> Any:
        """Celery's pauses grow by 2 s to 30 s: a node that is back would be missed for so long."""

        def say(error: Exception, pause_s: float) -> None:
            telemetry.logger("worker").warning("broker.away", error=str(error), retry_in_s=pause_s)

        return conn.ensure_connection(
            say,
            callback=maybe_shutdown,
            interval_start=RECONNECT_S,
            interval_step=RECONNECT_S,
            interval_max=RECONNECT_S_MAX,
        )
