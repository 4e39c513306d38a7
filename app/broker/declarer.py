"""Declaring and looking over a connection of its own, apart from the one that publishes."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import amqp
import msgspec

from app.broker.connect import BrokerAway, close_connection, open_connection
from app.broker.names import RUNS
from app.broker.topology import declare

T = TypeVar("T")

CONTROL_TIMEOUT_S = 10.0


class Ensured(msgspec.Struct, frozen=True):
    """What a look at some queues found, before anything was declared."""

    missing: list[str]
    empty: list[str]  # no message ready; a consumer may hold unacknowledged ones
    unconsumed: list[str]  # those of `empty` that have no consumer: they hold nothing at all
    refused: dict[str, str]  # what could not be declared, and the broker's words


class Declarer:
    """A connection for declaring and looking, apart from the one that publishes.

    It never publishes, so an alarm does not block it; and a closed channel costs no confirms.
    Opened when first used, again after it was lost. Whoever keeps it looks at least once per
    heartbeat, if only at no queue: RabbitMQ closes a connection that says nothing. For one thread.
    """

    def __init__(self, url: str, *, name: str, heartbeat_s: int) -> None:
        self._url, self._name, self._heartbeat_s = url, name, heartbeat_s
        self._connection: Any = None
        self._channel: Any = None

    def look(self, queues: Collection[str]) -> Ensured:
        """What is there now, declaring nothing. Raises BrokerAway."""
        if not queues and self._connection is not None:
            self._work(_say_something)
        found = {name: self._work(_look, name) for name in sorted(set(queues))}
        empty = [name for name, counts in found.items() if counts is not None and counts[0] == 0]
        return Ensured(
            missing=[name for name, counts in found.items() if counts is None],
            empty=empty,
            unconsumed=[name for name in empty if (found[name] or (0, 0))[1] == 0],
            refused={},
        )

    def ensure(self, queues: Collection[str]) -> Ensured:
        """Look at each queue, then declare everything, one queue's refusal not stopping another.

        Raises BrokerAway.
        """
        found = self.look(queues)
        for name in ("", *sorted(set(queues))):
            try:
                self._work(declare, [name] if name else [])
            except amqp.ChannelError as error:
                found.refused[name or RUNS] = str(error)
        return found

    def close(self) -> None:
        """Let the connection go. Never raises."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            close_connection(connection)

    def _work(self, work: Callable[..., T], *args: Any) -> T:
        """Raises amqp.ChannelError for what the broker refuses, BrokerAway for everything else."""
        try:
            if self._connection is None or not self._connection.connected:
                self._connection = open_connection(
                    self._url, name=self._name, heartbeat_s=self._heartbeat_s
                )
                self._connection.sock.settimeout(CONTROL_TIMEOUT_S)
                self._channel = None
            # One for all looks: each new one leaves a cycle of garbage, a look comes every two
            # seconds, and a process that makes little else collects it once an hour.
            if self._channel is None or not self._channel.is_open:
                self._channel = self._connection.channel()
            result = work(self._channel, *args)
        except BrokerAway:
            raise
        except amqp.ChannelError:
            self.close()
            raise
        except Exception as error:  # py-amqp raises many kinds
            self.close()
            raise BrokerAway(f"{type(error).__name__}: {error}") from error
        return result


def _say_something(channel: Any) -> None:
    """The least that RabbitMQ answers; its own heartbeats are read on the way."""
    channel.basic_qos(prefetch_size=0, prefetch_count=0, a_global=False)


def _look(channel: Any, queue: str) -> tuple[int, int] | None:
    """(messages ready, consumers), or None if there is no such queue."""
    try:
        found = channel.queue_declare(queue, passive=True)
    except amqp.NotFound:
        return None
    return found.message_count, found.consumer_count
