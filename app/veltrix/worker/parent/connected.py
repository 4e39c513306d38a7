"""How the worker's parent connects to RabbitMQ."""

import socket
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from threading import current_thread, main_thread
from typing import Any

from amqp import AccessRefused, RecoverableConnectionError
from celery.utils.threads import bound_open_broker_sockets
from celery.worker.consumer import Consumer
from celery.worker.consumer.control import Control
from celery.worker.state import maybe_shutdown

from veltrix import telemetry
from veltrix.broker.connect import drain_decrypted
from veltrix.worker.parent.declaring import is_served, none_is_missing, say_refused, say_unserved
from veltrix.worker.parent.listening import Listening
from veltrix.worker.parent.parts import Parent
from veltrix.worker.troubles import Troubles

RECONNECT_S, RECONNECT_S_MAX = 0.2, 1.0
_ANSWER_S = 10.0  # nothing we ask of RabbitMQ, and nothing we tell it, takes longer
_GOODBYE_S = 0.5  # for each of half a dozen answers
_WELL_S = 2.0  # RabbitMQ takes a consumer first, and ends its connection then
_TROUBLE = "broker"


class ConnectedConsumer(Consumer):
    """Celery's consumer, back within a second when RabbitMQ is, and never deaf or stuck for long.

    The loop that hands out lists is the one that talks to RabbitMQ, so no call of it may wait for
    an answer without a limit: a server that lost its power, or stands still, sends none.
    """

    class Blueprint(Consumer.Blueprint):
        """Celery's steps but one: it declares 28 queues for countdowns, which we have none of."""

        default_steps = tuple(
            step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step
        )

    _parent: Parent
    _listening: Listening | None = None  # by the connection there is
    _broken: BaseException | None = None  # what it met, until Celery's loop is told
    _since: float | None = None  # monotonic; when it began to listen
    missing_queues: set[str]  # which may not be declared: somebody else has to
    must_ask = False  # whether each queue is served, before the next connection listens to it

    def listen(self, receive: Callable[[Any], None], widths: Mapping[str, int], now: float) -> None:
        """By this new connection, in the place of Celery's consumer, which keeps its queues.

        What asks a worker for its queues (`celery inspect active_queues`, Flower) asks that one.
        """
        self.task_consumer.consume = _nothing
        queues = self.task_consumer.queues
        self._listening = Listening(
            self.connection,
            queues,
            receive,
            self.on_decode_error,
            now,
            self.missing_queues | self._parent.unserved.keys(),
            partial(is_served, self._parent.broker_url),
        )
        self._listening.take(widths, now)
        self.must_ask, self._since = False, now

    def may_do_without_control(self, troubles: Troubles) -> None:
        """Celery's control queues are for `inspect` and Flower: work goes on without them."""
        for step in self.steps:
            if isinstance(step, Control):
                step.start = _forgiving(step.start, troubles)

    def take(self, widths: Mapping[str, int], now: float) -> None:
        """See `Listening.take`."""
        with self._noting():
            if self._listening is not None:
                self._listening.take(widths, now)

    def listen_anew(self, busy: Collection[str], now: float) -> None:
        """See `Listening.listen_anew`."""
        with self._noting():
            if self._listening is not None:
                self._listening.listen_anew(busy, now)
                self._note_missing(self._listening.missing)

    def deaf(self, wanted: Iterable[str]) -> list[str]:
        """Those of these queues that have no consumer of ours now."""
        listening = self._listening if self.connection and self.connection.connected else None
        return [name for name in wanted if listening is None or not listening.has(name)]

    def _note_missing(self, missing: Collection[str]) -> None:
        troubles, unserved = self._parent.troubles, self._parent.unserved
        if not missing:
            none_is_missing(troubles)
        mended = unserved.keys() - missing
        for queue in mended:
            del unserved[queue]
        if mended:
            say_unserved(troubles, unserved)

    def take_no_more(self) -> None:
        """What is on its way is still taken."""
        with self._noting():
            if self._listening is not None:
                self._listening.take_no_more()

    def on_send_event_buffered(self) -> None:
        """`ListConsumer` sends what Flower is to see, so that a run waits for no write of an event.

        Sent at each turn of the loop, events were a third of this process's time at 300 runs/s.
        """

    def say_goodbye_soon(self) -> None:
        """How long the end of our connections may take: RabbitMQ may have nothing to say to it."""
        for connection in self._connections():
            bound_open_broker_sockets(connection, _GOODBYE_S)

    def acknowledge(self, message: Any) -> None:
        """Where its connection is gone it comes again, and its runs are found to be settled."""
        with suppress(*self.connection_errors, *self.channel_errors):
            message.ack()

    def give_back(self, message: Any) -> None:
        """To RabbitMQ, at its place in the queue, for whoever is free."""
        with suppress(*self.connection_errors, *self.channel_errors):
            message.requeue()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Whoever speaks by the connection there is has work of its own to go on with.

        Where it ended meanwhile nobody else is told: its socket is closed, so the loop would wait
        for it for ever. `tell_loop` is told, and which queue it was is asked. Messages are not
        spoken of here: theirs may be a connection of the past.
        """
        try:
            yield
        except (*self.connection_errors, *self.channel_errors) as error:
            self._broken = self._broken or error
            self.must_ask = True

    def tell_loop(self, now: float) -> None:
        """In Celery's loop: raise what the connection met, so that it is given up and made anew.

        Celery itself passes over an error in the first turn of its loop. A connection that has
        lived for a while is well.
        """
        if self._broken is not None:
            error = self._broken
            raise RecoverableConnectionError(f"{type(error).__name__}: {error}") from error
        if not self.connection.connected:
            raise RecoverableConnectionError("it is closed")
        if current_thread() is main_thread():  # at its end Celery ticks from another
            with self._noting():
                drain_decrypted(self.connection)
        if self._since is not None and now - self._since >= _WELL_S:
            self._parent.troubles.clear(_TROUBLE)

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Hang up first: a polite end of a broken connection would wait for an answer."""
        self._parent.troubles.set(_TROUBLE, f"RabbitMQ ended the connection: {exc}")
        if self._since is not None and self._parent.monotonic() - self._since < _WELL_S:
            self.must_ask = True
        self._broken = self._since = None
        for connection in self._connections():
            with suppress(OSError, AttributeError):
                # Not the properties: they connect again. And not what TLS makes of a shutdown: its
                # socket would be no socket of TLS any more, of which py-amqp knows nothing.
                sock = connection._connection._transport.sock  # noqa: SLF001
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        with warnings.catch_warnings():  # of a setting of Celery's that says nothing to our users
            warnings.simplefilter("ignore")
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
            self._parent.troubles.set(_TROUBLE, f"RabbitMQ cannot be reached: {error}")

        connected = conn.ensure_connection(
            say,
            callback=maybe_shutdown,
            interval_start=RECONNECT_S,
            interval_step=RECONNECT_S,
            interval_max=RECONNECT_S_MAX,
        )
        bound_open_broker_sockets(connected, _ANSWER_S)
        return connected


def _nothing(**_: Any) -> None:
    """Celery's consumer takes no messages: see `Listening`."""


def _forgiving(start: Callable[[Any], None], troubles: Troubles) -> Callable[[Any], None]:
    def start_or_say(consumer: Any) -> None:
        try:
            start(consumer)
        except AccessRefused as refused:
            say_refused(troubles, "Celery's control queues", refused, stops_work=False)

    return start_or_say
