"""A worker in one process, for debugging: takes one message at a time, and executes it here.

No Celery, no children, nothing behind pipes: a debugger in a step has the terminal, and however
long it stands still, the lease of its run is renewed by the watch.
"""

from collections.abc import Callable, Collection
from threading import Event
from typing import Any

import amqp

from veltrix import telemetry
from veltrix.broker.connect import BrokerAway, close_connection, open_connection
from veltrix.broker.topology import QueueType
from veltrix.domain.backoff import Backoff
from veltrix.domain.dead_letters import DeadLetter
from veltrix.worker.jobs import Job, LetterJob, ListJob
from veltrix.worker.parent.declaring import ensure_topology
from veltrix.worker.parent.guard import Malformed, letter_of, read_message
from veltrix.worker.troubles import Troubles

_LOOK_S = 0.5  # until it is seen that the worker shall end
_PAUSE_S, _PAUSE_S_MAX = 0.5, 5.0
_LOST = (OSError, amqp.AMQPError, BrokerAway)


class SoloConsumer:
    """Messages of these queues, one after the other; `run_job` does in this thread what they ask.

    RabbitMQ ends a connection that stands in a debugger for minutes. Then the message comes again,
    and finds its run claimed or over.
    """

    def __init__(
        self,
        url: str,
        queues: list[str],
        workflows: Collection[str],
        run_job: Callable[[Job], bytes],
        new_token: Callable[[], str],
        monotonic: Callable[[], float],
        troubles: Troubles,
        queue_type: QueueType,
    ) -> None:
        self._url, self._queues, self._workflows = url, queues, workflows
        self._run_job, self._new_token, self._monotonic = run_job, new_token, monotonic
        self._troubles, self._queue_type = troubles, queue_type
        self._waiting: list[Any] = []  # at most one: so many are asked for
        self._log = telemetry.logger("worker")

    def run(self, stop: Event) -> None:
        """Until `stop` is set; a connection that is lost is made anew."""
        backoff = Backoff(_PAUSE_S, _PAUSE_S_MAX)
        while not stop.is_set():
            connection = None
            try:
                connection = open_connection(self._url, name="veltrix worker solo", heartbeat_s=0)
                channel = self._listen(connection)
                backoff.reset()
                self._take_until(stop, connection, channel)
            except _LOST as error:
                if not stop.is_set():
                    pause_s = backoff.extend(self._monotonic())
                    self._log.warning("broker.lost", error=str(error)[:300], again_in_s=pause_s)
                    stop.wait(pause_s)
            finally:
                self._waiting.clear()
                if connection is not None:
                    close_connection(connection)

    def _listen(self, connection: Any) -> Any:
        channel = connection.channel()
        missing = ensure_topology(channel, self._queues, self._troubles, self._queue_type)
        channel.basic_qos(0, 1, False)
        for queue in self._queues:
            if queue not in missing:
                channel.basic_consume(queue, callback=self._waiting.append)
        return channel

    def _take_until(self, stop: Event, connection: Any, channel: Any) -> None:
        while not stop.is_set():
            if not self._waiting:
                try:
                    connection.drain_events(timeout=_LOOK_S)
                except TimeoutError:
                    continue
            while self._waiting and not stop.is_set():
                raw = self._waiting.pop()
                for job in self._jobs_of(channel.message_to_python(raw)):
                    self._run_job(job)
                channel.basic_ack(raw.delivery_tag)

    def _jobs_of(self, message: Any) -> list[Job]:
        queue = str((message.delivery_info or {}).get("routing_key"))
        try:
            order = read_message(message)
        except Malformed as malformed:
            self._log.warning("message.refused", reason=malformed.reason, detail=str(malformed))
            return [LetterJob([letter_of(message, queue, malformed.reason, str(malformed))])]
        letters: dict[str, DeadLetter] = {}
        if order.task not in self._workflows:
            detail = f"no workflow {order.task!r} in this worker"
            letters[order.delivery_id] = letter_of(message, queue, "unknown_task", detail)
        handed = {} if order.handed is None else {order.delivery_id: order.handed}
        # Each by itself: in a debugger a second run beside it would be in the way.
        return [
            ListJob(self._new_token(), [(run_id, order.delivery_id)], letters, handed)
            for run_id in order.run_ids
        ]
