"""How the worker's parent listens: one channel for each queue, and one consumer while it may take.

Celery has one channel for all. A queue that is deleted and declared again may be one that this
worker goes on listening to in vain, and only the end of its channel helps (see `Listening`).
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from amqp import spec
from kombu import Consumer, Queue

from veltrix.domain.backoff import Pauses

ANEW_S = 10.0
LOOK_S, LOOK_S_MAX = 2.0, 60.0
_ON_THEIR_WAY = 8  # consumers of a queue cancelled last, of which messages may still come


class Listening:
    """Consumers of these queues by one connection; `receive` is given each message.

    `missing` are queues that were not there, or not served: `is_served` is asked now and then.

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
        receive: Callable[[Any], None],
        wrong: Callable[[Any, BaseException], None],
        now: float,
        missing: Collection[str] = (),
        is_served: Callable[[str], bool] = lambda _name: True,
    ) -> None:
        self._connection, self._is_served = connection, is_served
        self.missing = set(missing)
        self._looks = Pauses(LOOK_S, LOOK_S_MAX)
        self._receive, self._wrong = receive, wrong
        self._queues = {queue.name: queue for queue in queues}
        self._consumers = {name: self._consumer(name) for name in self._queues}
        self._widths: dict[str, int] = {}
        self._cancelled: dict[str, deque[str]] = {name: deque() for name in self._queues}
        self._heard = dict.fromkeys(self._queues, now)

    def _consumer(self, name: str) -> Consumer:
        return Consumer(
            self._connection.channel(),
            [self._queues[name]],
            on_message=self._receive,
            on_decode_error=self._wrong,
            accept=["json"],
            auto_declare=False,
        )

    def take(self, widths: Mapping[str, int], now: float) -> None:
        """From these queues, with so many messages at once here that are not acknowledged.

        Waits for no answer: a queue that is not there ends the channel, and with it the connection.
        What an earlier consumer of the queue has given counts no more.
        """
        for name, width in widths.items():
            if name in self.missing:
                self._widths[name] = width  # for when it is there
                continue
            self._cancel(name)
            consumer = self._consumers[name]
            consumer.channel.send_method(spec.Basic.Qos, "lBb", (0, width, False))
            (queue,) = consumer.queues  # as this channel knows it
            consumer._basic_consume(queue, nowait=True)  # noqa: SLF001 - kombu's own waits
            self._widths[name] = width
            self._heard[name] = now

    def take_no_more(self) -> None:
        """What is on its way is still taken. Waits for no answer."""
        self._widths.clear()
        for name in self._queues:
            self._cancel(name)

    def _cancel(self, name: str) -> None:
        """Its consumer, if it has one; the tag's callback stays for what is on its way."""
        consumer, cancelled = self._consumers[name], self._cancelled[name]
        tags = consumer._active_tags  # noqa: SLF001 - kombu's own way waits for an answer
        tag = tags.pop(name, None)
        if tag is not None:
            consumer.channel.basic_cancel(tag, nowait=True)
            cancelled.append(tag)
            if len(cancelled) > _ON_THEIR_WAY:
                consumer.channel.callbacks.pop(cancelled.popleft(), None)

    def has(self, name: str) -> bool:
        """This queue has a consumer of ours on a channel that lives."""
        consumer = self._consumers.get(name)
        if consumer is None or not consumer.channel.is_open:
            return False
        tag = consumer._active_tags.get(name)  # noqa: SLF001 - as above
        return tag in consumer.channel.callbacks  # RabbitMQ takes it out when it cancels

    def listen_anew(self, busy: Collection[str], now: float) -> None:
        """By a new channel to every queue that gave nothing for 10 s and of which nothing is here.

        `busy` are the queues of which something is: whoever has as many messages as it may have is
        given no other, and those it has would be given again. Queues it does not take from wait.
        """
        self._heard.update(dict.fromkeys(busy, now))
        self._look_for_one(now)
        for name, heard in self._heard.items():
            width = self._widths.get(name)
            if width is not None and now - heard >= ANEW_S and name not in self.missing:
                self._heard[name] = now
                self._consumers[name].channel.close()
                self._consumers[name] = self._consumer(name)
                self.take({name: width}, now)

    def _look_for_one(self, now: float) -> None:
        """One that was missing may have been declared, or renewed, by somebody.

        One at a time, and the rarer the longer: a question may wait for its answer.
        """
        for name in sorted(self.missing):
            if now - self._heard[name] >= LOOK_S and self._looks.extend(name, now) is not None:
                if self._is_served(name):
                    self.missing.discard(name)
                    self._heard[name] = now - ANEW_S  # listen at once
                return
