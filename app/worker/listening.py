"""How the worker's parent listens: one channel and one consumer for each queue.

Celery has one channel for all. A queue that is deleted and declared again may be one that this
worker goes on listening to in vain, and only the end of its channel helps (see `Listening`).
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from kombu import Consumer, Queue

ANEW_S = 10.0


class Listening:
    """Consumers of these queues by one connection; `receive` is given each message.

    `wrong` is given what kombu cannot decode, with the error.

    RabbitMQ 3.10 may not tell the consumers of a quorum queue that it was deleted (`veltrix prove`
    saw it under load). Declared again, the queue still takes the channel for one of its consumers,
    and what it gives to it never arrives: messages that nobody has and nobody sees. They are given
    to another when the channel ends.
    """

    def __init__(
        self,
        connection: Any,
        queues: Collection[Queue],
        prefetch: int,
        receive: Callable[[Any], None],
        wrong: Callable[[Any, BaseException], None],
        now: float,
    ) -> None:
        self._connection, self._prefetch = connection, prefetch
        self._receive, self._wrong = receive, wrong
        self._queues = {queue.name: queue for queue in queues}
        self._consumers = {name: self._consume(name) for name in self._queues}
        self._heard = dict.fromkeys(self._queues, now)

    def _consume(self, name: str) -> Consumer:
        consumer = Consumer(
            self._connection.channel(),
            [self._queues[name]],
            on_message=self._receive,
            on_decode_error=self._wrong,
            accept=["json"],
            auto_declare=False,
        )
        consumer.qos(prefetch_count=self._prefetch)
        consumer.consume()
        return consumer

    def listen_anew(self, busy: Collection[str], now: float) -> None:
        """By a new channel to every queue that gave nothing for 10 s and of which nothing is here.

        `busy` are the queues of which something is: whoever has as many messages as it may have is
        given no other, and those it has would be given again.
        """
        self._heard.update(dict.fromkeys(busy, now))
        for name, heard in self._heard.items():
            if now - heard >= ANEW_S:
                self._heard[name] = now
                self._consumers[name].channel.close()
                self._consumers[name] = self._consume(name)

    def take_no_more(self) -> None:
        """Cancel every consumer without waiting for an answer, as kombu would."""
        with suppress(*self._connection.connection_errors, *self._connection.channel_errors):
            for consumer in self._consumers.values():
                for tag in consumer._active_tags.values():  # noqa: SLF001 - kombu's own waits
                    consumer.channel.basic_cancel(tag, nowait=True)
