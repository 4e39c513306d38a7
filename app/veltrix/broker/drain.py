"""The drains: raw AMQP messages of `veltrix.dead` and `veltrix.unroutable`, through pika.

A list is kept first and acknowledged after: at least once. While it cannot be kept it stays in
hand, unacknowledged: each delivery again is counted by RabbitMQ, which drops a message after twenty
of them where no policy says otherwise. What a lost connection had is delivered again, saying so.
"""

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from threading import Event, Thread
from typing import Any

import msgspec
import pika
from pika.exceptions import AMQPError

from veltrix.broker.connect import BrokerAway, pika_parameters
from veltrix.broker.message import run_ids_in
from veltrix.broker.names import DEAD, UNROUTABLE
from veltrix.domain.dead_letters import DeadLetter

LIST_MESSAGES_MAX = 100
HEARD_S = 1.0  # between two signs of life while a list is being kept
# Added by quorum queues when they deliver again: not part of what the message is.
_CHANGING_HEADERS = {"x-delivery-count", "x-acquired-count"}


class Drain:
    """Consumes both queues over one connection, opened when first used. For one thread."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        heartbeat_s: int,
        keep: Callable[[list[DeadLetter]], int],
        declare: Callable[[], object] = lambda: None,
        try_keeping: Callable[[], object] = lambda: None,
    ) -> None:
        """`keep` commits the letters, or raises; `declare` makes the queues before a connection.

        `try_keeping` raises while nothing could be kept: then no message is asked for.
        """
        self._parameters = pika_parameters(url, name=name, heartbeat_s=heartbeat_s)
        self._keep, self._declare, self._try_keeping = keep, declare, try_keeping
        self._connection: Any = None
        self._channel: Any = None
        self._waiting: list[tuple[int, DeadLetter]] = []

    def drain_once(self, wait_s: float = 1.0) -> int:
        """Keep and acknowledge everything that waits, waiting at most `wait_s` for the first.

        How many letters were new. Raises BrokerAway, or what `keep` and `try_keeping` raise; what
        waits is in hand then, until it is kept.
        """
        try:
            if self._channel is None:
                self._connect()
            self._connection.process_data_events(time_limit=0 if self._waiting else wait_s)
            if not self._waiting:
                return 0
            count = len(self._waiting)
            kept = self._kept([letter for _, letter in self._waiting])
            self._channel.basic_ack(self._waiting[count - 1][0], multiple=True)
            del self._waiting[:count]
        except (AMQPError, OSError) as error:
            self.close()
            raise BrokerAway(f"{type(error).__name__}: {error}") from error
        return kept

    def _kept(self, letters: list[DeadLetter]) -> int:
        """What `keep` returns or raises; meanwhile RabbitMQ hears from us, however long."""
        answers: list[int | Exception] = []
        is_done = Event()

        def keep() -> None:
            try:
                answers.append(self._keep(letters))
            except Exception as error:  # noqa: BLE001 - raised again by who waits
                answers.append(error)
            is_done.set()

        Thread(target=keep, name="drain-keep", daemon=True).start()
        while not is_done.wait(HEARD_S):
            self._connection.process_data_events(time_limit=0)
        (answer,) = answers
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Let the connection go; what was not acknowledged is delivered again. Never raises."""
        connection, self._connection = self._connection, None
        self._channel, self._waiting = None, []
        try:
            if connection is not None and connection.is_open:
                connection.close()
        except (AMQPError, OSError):
            pass

    def _connect(self) -> None:
        self._try_keeping()
        self._declare()
        self._connection = pika.BlockingConnection(self._parameters)
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=LIST_MESSAGES_MAX)
        for queue in (DEAD, UNROUTABLE):
            channel.basic_consume(queue, partial(self._take, queue))
        self._channel = channel

    def _take(self, queue: str, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        # Both consumers share the channel, so one acknowledgement covers all tags up to the last.
        self._waiting.append((method.delivery_tag, letter_of(queue, method, properties, body)))


def letter_of(drained: str, method: Any, properties: Any, body: bytes) -> DeadLetter:
    """The dead letter for a message drained from `drained`. Never raises, whatever was sent.

    Ours is known by its message id; anything else by a digest of body and headers, which counts
    only if RabbitMQ says that it delivered the message before.
    """
    headers = properties.headers or {}
    run_ids = run_ids_in(body)
    is_ours = bool(run_ids) and properties.message_id == run_ids[0]
    death = _first_death(headers)
    source = death.get("exchange") or method.exchange
    key = properties.message_id if is_ours else _digest(headers, body)
    return DeadLetter(
        queue=str(death.get("queue") or drained),
        reason=str(death.get("reason") or ("unroutable" if drained == UNROUTABLE else "unknown")),
        detail=f"exchange {source!r}, routing key {method.routing_key!r}",
        content_type=properties.content_type,
        headers=_json(headers),
        body=body,
        run_ids=run_ids,
        message_key=f"{'id' if is_ours else 'digest'}:{key}",
        is_copy_possible=is_ours or method.redelivered,
    )


def _first_death(headers: dict[str, Any]) -> dict[str, Any]:
    deaths = headers.get("x-death")
    is_list = isinstance(deaths, list) and deaths and isinstance(deaths[0], dict)
    return deaths[0] if is_list else {}  # type: ignore[index]


def _digest(headers: dict[str, Any], body: bytes) -> str:
    lasting = {name: value for name, value in headers.items() if name not in _CHANGING_HEADERS}
    digest = blake2b(_json(lasting).encode(), digest_size=16)
    digest.update(body)
    return digest.hexdigest()


def _json(headers: dict[str, Any]) -> str:
    """JSON text of AMQP headers, whatever they hold: what JSON has no word for becomes its repr."""
    try:
        return msgspec.json.encode(headers, enc_hook=repr, order="sorted").decode()
    except (msgspec.EncodeError, UnicodeError, ValueError, TypeError, RecursionError):
        return msgspec.json.encode({"headers": ascii(headers)}).decode()
