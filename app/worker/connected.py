"""How the worker's parent connects to RabbitMQ."""

from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from app import telemetry

RECONNECT_S, RECONNECT_S_MAX = 0.2, 1.0


class ConnectedConsumer(Consumer):
    """Celery's consumer, back within a second when RabbitMQ is."""

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
