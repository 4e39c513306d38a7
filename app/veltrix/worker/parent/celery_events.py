"""The Celery events that Flower reads: sent when they can be, and never waited for."""

import time
from typing import Any

import msgspec
from amqp import AccessRefused, NotFound
from celery.events.dispatcher import EventDispatcher
from celery.utils.time import utcoffset
from celery.worker.request import Request
from celery.worker.state import (
    requests,
    reserved_requests,
    task_accepted,
    task_ready,
    task_reserved,
)

from veltrix import telemetry
from veltrix.worker.parent.collector import Delivery

_OPEN = frozenset({"waiting", "queued", "lost"})


class CeleryEvents(EventDispatcher):
    """Publishes on the connection it was given, and nothing else.

    Celery's declares its exchange with every event. Where the connection is broken, kombu connects
    again for that without end, in the middle of the loop: `veltrix prove` met a worker that stood
    still for good. Here a broken connection is left to the consumer, which notices it in its loop.
    """

    is_blocked = False

    def enable(self) -> None:
        """Declares the exchange, once for each connection.

        Who may not, and does not find it, sends no events: they are for Flower only.
        """
        super().enable()
        exchange = self.exchange(self.producer.channel)
        try:
            exchange.declare()
        except AccessRefused:
            try:
                exchange.declare(passive=True)
            except (AccessRefused, NotFound):
                self.disable()

    def send(self, type_: str, *args: Any, **fields: Any) -> None:
        """As Celery's; a task's event is a dictionary in a list until `flush`, and nothing else.

        Celery's works out the group, the offset from UTC and the place of each of three events per
        message, and its JSON goes through Python: together a quarter of this process's time.
        """
        if not self.enabled or not type_.startswith("task-"):
            super().send(type_, *args, **fields)
            return
        waiting = self._group_buffer["task"]
        fields |= {"type": type_, "timestamp": time.time(), "clock": self.clock.forward()}
        waiting.append(fields)
        if len(waiting) >= self.buffer_limit:
            self.flush()

    def _publish(self, event: Any, producer: Any, routing_key: str, **_retry: Any) -> None:
        # RabbitMQ reads nothing while its alarm is raised: what is sent then fills the socket, and
        # the write that finds it full would wait until the alarm is over.
        if producer is None or self.is_blocked:
            return
        common = {"hostname": self.hostname, "pid": self.pid, "utcoffset": utcoffset()}
        told = [common | one for one in event] if isinstance(event, list) else event
        try:
            producer.publish(
                msgspec.json.encode(told),
                routing_key=routing_key,
                exchange=self.exchange.name,
                content_type="application/json",
                content_encoding="utf-8",
                headers=self.headers,
                delivery_mode=self.delivery_mode,
            )
        except self.connection.connection_errors + self.connection.channel_errors:
            self._outbound_buffer.append((event, routing_key))
        except Exception as error:  # noqa: BLE001 - nothing of a run hangs on what Flower shows
            telemetry.logger("worker").warning("event.dropped", error=repr(error)[:200])


def tell_received(request: Any) -> None:
    """A message has come."""
    task_reserved(request)
    request.send_event(
        "task-received",
        name=request.name,
        args=request.argsrepr,
        kwargs=request.kwargsrepr,
        root_id=request.root_id,
        parent_id=None,
        retries=0,
        eta=None,
        expires=None,
    )


def tell_started(request: Any, pid: int) -> None:
    """A child began with it."""
    request.worker_pid = pid
    task_accepted(request)
    request.send_event("task-started")


def forget(request: Any) -> None:
    """It waited here, and its connection ended: RabbitMQ gives the message to somebody again."""
    if request is not None:
        reserved_requests.discard(request)
        requests.pop(request.id, None)


def tell_end(delivery: Delivery, now: float) -> None:
    """A message's end: failed if a run failed for good, retried if one is open again."""
    outcomes = set(delivery.outcomes.values())
    request = delivery.request
    task_ready(request)
    runtime = now - (delivery.started or delivery.delivered)
    if "failed" in outcomes:
        failed = [r for r, o in delivery.outcomes.items() if o == "failed"]
        text = f"RunFailed({', '.join(failed)[:900]})"
        request.send_event("task-failed", exception=text, traceback="")
    elif outcomes & _OPEN:
        open_ = [r for r, o in delivery.outcomes.items() if o in _OPEN]
        text = f"RunDueAgain({', '.join(open_)[:900]})"
        request.send_event("task-retried", exception=text, traceback="")
    else:
        result = ", ".join(f"{r}: {o}" for r, o in delivery.outcomes.items())[:900]
        request.send_event("task-succeeded", result=result, runtime=runtime)


def request_of(consumer: Any, message: Any, order: Any) -> Any:
    """Celery's own account of a message, for `inspect` and for the events."""
    tasks = consumer.app.tasks
    return Request(
        message,
        app=consumer.app,
        task=tasks.get(order.task, tasks["celery.accumulate"]),
        body=order.body,
        decoded=True,
        hostname=consumer.hostname,
        eventer=consumer.event_dispatcher,
        connection_errors=consumer.connection_errors,
    )
