"""The publisher: pipelined, mandatory, every message confirmed or not believed.

Its own connection, used for nothing else (loss mode B12). Confirms are matched by delivery tag,
which py-amqp's own confirm mode does not do (P09). All writes go through one buffer and never
block, so a broker that stops reading (memory alarm) stops publishing and nothing else: `window` is
0 until it reads again. Whatever goes wrong, the connection is closed and what was not confirmed is
simply left: its runs come due.
"""

import select
import ssl
import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import msgspec
from amqp import spec
from amqp.method_framing import frame_writer

from veltrix.broker.connect import BrokerAway, close_connection, open_connection
from veltrix.broker.message import Message
from veltrix.broker.names import RUNS
from veltrix.telemetry import (
    messages_published,
    publish_failures,
    publish_nacks,
    publish_returns,
)

OUT_BYTES_MAX = 1024 * 1024
_READ_BYTES = 65_536
_FRAME_END = 0xCE
_END = bytes([_FRAME_END])
_frame = Struct(">BHI").pack
_unpack_frame = Struct(">BHI").unpack_from
_FRAME_HEADER_BYTES = 7
_METHOD, _HEADER, _BODY = 1, 2, 3
_CONTENT = Struct(">HHQ").pack
_BASIC, _PUBLISH = spec.Basic.Publish
_CHANNEL_CLOSE = Struct(">HH").pack(*spec.Channel.Close)
_EXCHANGE = RUNS.encode()
# basic.publish: class, method, a reserved short, exchange; then the routing key and the bits.
_PUBLISH_START = Struct(">HHH").pack(_BASIC, _PUBLISH, 0) + bytes([len(_EXCHANGE)]) + _EXCHANGE
_MANDATORY = b"\x01"
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Polled(msgspec.Struct):
    """What the broker said since the last look, each message in exactly one list, once."""

    confirmed: list[Message]
    nacked: list[Message]
    returned: list[Message]


class _Outbox:
    """Bytes on their way to the socket; the `transport` of py-amqp's frame writer."""

    def __init__(self) -> None:
        self.waiting = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.waiting += data


class Publisher:
    """One connection, one channel in confirm mode.

    Not thread-safe: its owner holds a lock or is alone.

    `name` is what operators see in RabbitMQ. `monotonic` measures waiting, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        unconfirmed_max: int,
        confirm_timeout_s: float,
        heartbeat_s: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._name = url, name
        self._unconfirmed_max = unconfirmed_max
        self._confirm_timeout_s = confirm_timeout_s
        self._heartbeat_s = heartbeat_s
        self._monotonic = monotonic
        self._connection: Any = None
        self._lost: list[Message] = []
        self._forget()

    def _forget(self) -> None:
        self._sock: Any = None
        self._channel_id = 0
        self._frame_bytes_max = 0
        self._outbox = _Outbox()
        self._inbox = bytearray()
        self._tag = 0
        self._unconfirmed: dict[int, tuple[float, Message]] = {}
        self._said = Polled([], [], [])
        self._is_blocked = False
        self._patience_from = 0.0

    @property
    def is_connected(self) -> bool:
        """False before `connect` and after anything went wrong."""
        return self._connection is not None

    @property
    def is_blocked(self) -> bool:
        """RabbitMQ has an alarm and does not read: nothing can be published until it is over."""
        return self._is_blocked

    @property
    def unconfirmed(self) -> int:
        """Messages published, not yet confirmed, nacked or returned."""
        return len(self._unconfirmed)

    @property
    def window(self) -> int:
        """Messages that may be published now; 0 while blocked, away, or behind with writing."""
        if (
            self._connection is None
            or self._is_blocked
            or len(self._outbox.waiting) > OUT_BYTES_MAX
        ):
            return 0
        return max(0, self._unconfirmed_max - len(self._unconfirmed))

    @property
    def has_unsent(self) -> bool:
        """Bytes wait until the socket takes them: `poll` when it is writable."""
        return bool(self._outbox.waiting)

    def fileno(self) -> int:
        """The socket, for a selector. Only while connected."""
        return int(self._sock.fileno())

    def connect(self) -> None:
        """Open the connection with its channel in confirm mode. Raises BrokerAway."""
        self.close()
        connection = open_connection(
            self._url,
            name=self._name,
            heartbeat_s=self._heartbeat_s,
            on_blocked=self._on_blocked,
            on_unblocked=self._on_unblocked,
        )
        try:
            connection.sock.settimeout(self._confirm_timeout_s)
            channel = connection.channel()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            channel.confirm_select()
            connection.sock.settimeout(0)
        except Exception as error:
            close_connection(connection)
            raise BrokerAway(f"{type(error).__name__}: {error}") from error
        # From here on py-amqp only writes into the outbox and is given whole frames.
        connection.frame_writer = frame_writer(connection, self._outbox)
        self._sock = connection.sock
        self._channel_id = channel.channel_id
        self._frame_bytes_max = connection.frame_max - 8
        self._connection = connection

    def close(self) -> None:
        """Let go at once; what is not confirmed is lost: see `take_lost`. Never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            close_connection(connection)
        self._lost += [message for _, message in self._unconfirmed.values()]
        self._lost += self._said.nacked + self._said.returned
        self._forget()

    def take_lost(self) -> list[Message]:
        """Messages of connections that ended: whether they arrived, nobody knows."""
        lost, self._lost = self._lost, []
        return lost

    def publish(self, messages: Sequence[Message]) -> int:
        """Write as many of the first messages as there is room for; how many. Raises BrokerAway.

        Never waits. What became of them is said by `poll`.
        """
        if self._connection is None:
            raise BrokerAway("not connected")
        taken = messages[: self.window]
        now = self._monotonic()
        parts: list[bytes] = []
        for message in taken:
            self._tag += 1
            self._unconfirmed[self._tag] = (now, message)
            self._encode(message, parts)
        self._outbox.waiting += b"".join(parts)
        self._connection.bytes_sent += len(taken)
        self._guarded(self._flush)
        messages_published.inc(len(taken))
        return len(taken)

    def poll(self, timeout_s: float = 0.0) -> Polled:
        """What the broker said since the last call, waiting at most `timeout_s` for something.

        Services heartbeats and pending writes too: call it at least every few seconds. Raises
        BrokerAway, also when a confirm is overdue; while blocked, none is.
        """
        if self._connection is None:
            raise BrokerAway("not connected")
        self._guarded(self._exchange, timeout_s)
        said, self._said = self._said, Polled([], [], [])
        return said

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        try:
            work(*args)
        except Exception as error:  # py-amqp raises many kinds; all of them end the connection
            publish_failures.inc()
            unconfirmed = len(self._unconfirmed)
            self.close()
            raise BrokerAway(
                f"{type(error).__name__}: {error} ({unconfirmed} messages unconfirmed)"
            ) from error

    def _exchange(self, timeout_s: float) -> None:
        self._connection.heartbeat_tick()
        self._flush()
        self._read()
        said = self._said
        if timeout_s > 0 and not (said.confirmed or said.nacked or said.returned):
            writers = [self._sock] if self._outbox.waiting else []
            select.select([self._sock], writers, [], timeout_s)
            self._read()
            self._flush()
        self._check_overdue()

    def _check_overdue(self) -> None:
        if self._is_blocked or not self._unconfirmed:
            return
        oldest, _ = next(iter(self._unconfirmed.values()))
        if self._monotonic() - max(oldest, self._patience_from) > self._confirm_timeout_s:
            raise TimeoutError(f"no confirm for {self._confirm_timeout_s} s")

    def _flush(self) -> None:
        waiting = self._outbox.waiting
        while waiting:
            try:
                sent = self._sock.send(waiting)
            except _WOULD_BLOCK:
                return
            del waiting[:sent]

    def _read(self) -> None:
        while True:
            try:
                data = self._sock.recv(_READ_BYTES)
            except _WOULD_BLOCK:
                return
            if not data:
                raise ConnectionResetError("RabbitMQ closed the connection")
            self._inbox += data
            self._dispatch()

    def _dispatch(self) -> None:
        inbox = self._inbox
        start = 0
        while len(inbox) - start > _FRAME_HEADER_BYTES:
            type_, channel, size = _unpack_frame(inbox, start)
            end = start + _FRAME_HEADER_BYTES + size
            if len(inbox) <= end:
                break
            if inbox[end] != _FRAME_END:
                raise ConnectionError("a frame without its end")
            payload = bytes(inbox[start + _FRAME_HEADER_BYTES : end])
            start = end + 1
            if type_ == _METHOD and payload[:4] == _CHANNEL_CLOSE:
                code = int.from_bytes(payload[4:6], "big")
                text = payload[7 : 7 + payload[6]].decode(errors="replace")
                raise ConnectionError(f"RabbitMQ closed the channel: {code} {text}")
            self._connection.on_inbound_frame((type_, channel, payload))
        del inbox[:start]

    def _encode(self, message: Message, parts: list[bytes]) -> None:
        channel = self._channel_id
        key = message.queue.encode()
        method = b"".join((_PUBLISH_START, bytes([len(key)]), key, _MANDATORY))
        header = _CONTENT(_BASIC, 0, len(message.body)) + message.properties
        parts += (_frame(_METHOD, channel, len(method)), method, _END)
        parts += (_frame(_HEADER, channel, len(header)), header, _END)
        for at in range(0, len(message.body), self._frame_bytes_max):
            body = message.body[at : at + self._frame_bytes_max]
            parts += (_frame(_BODY, channel, len(body)), body, _END)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._said.confirmed.extend(self._settled(tag, multiple))

    def _on_nack(self, tag: int, multiple: bool) -> None:
        nacked = self._settled(tag, multiple)
        publish_nacks.inc(len(nacked))
        self._said.nacked.extend(nacked)

    def _on_return(self, _error: Exception, _exchange: str, queue: str, returned: Any) -> None:
        """The oldest unconfirmed copy came back; the ack that follows for it says nothing more."""
        id_ = returned.properties.get("message_id")
        for tag, (_, message) in self._unconfirmed.items():
            if message.id == id_ and message.queue == queue:
                del self._unconfirmed[tag]
                publish_returns.inc()
                self._said.returned.append(message)
                return

    def _settled(self, tag: int, multiple: bool) -> list[Message]:
        if not multiple:
            found = self._unconfirmed.pop(tag, None)
            return [] if found is None else [found[1]]
        tags = []
        for known in self._unconfirmed:
            if known > tag:
                break
            tags.append(known)
        return [self._unconfirmed.pop(known)[1] for known in tags]

    def _on_blocked(self, _reason: str) -> None:
        self._is_blocked = True

    def _on_unblocked(self) -> None:
        self._is_blocked = False
        self._patience_from = self._monotonic()
