"""Queues that RabbitMQ cannot serve, or has as another type: to tell them, and to make them anew.

RabbitMQ 3.10 says of a queue that nobody runs, and of one that is slow to answer, the same: it is
there, with 0 messages and 0 consumers. Only asking for a message tells them apart: the connection
of who asks a broken one is ended with an internal error. So each question here is asked by a
connection of its own.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Any

import amqp
import msgspec

from veltrix.broker.connect import BrokerAway, close_connection, open_connection
from veltrix.broker.names import RUNS
from veltrix.broker.topology import Queue, QueueType, declare_either, declare_queue

ANSWER_S = 2.0

Bound = tuple[str, str, dict[str, Any]]  # exchange, routing key, arguments


class Health(Enum):
    """What became of a question for a message."""

    SERVED = "it answers"
    MISSING = "it is not there"
    REFUSED = "its user may not read it"
    BROKEN = "RabbitMQ ends the connection"
    SILENT = "it does not answer"
    UNKNOWN = "RabbitMQ could not be asked"


class Renewal(msgspec.Struct, frozen=True):
    """What became of a queue: deleted or not, and in whose words it is not new now."""

    is_deleted: bool = False
    refused: str = ""


def health_of(url: str, queue: str, *, name: str) -> Health:
    """Ask, for at most some seconds. Never raises."""
    try:
        connection = open_connection(url, name=name, heartbeat_s=0)
    except BrokerAway:
        return Health.UNKNOWN
    try:
        connection.sock.settimeout(ANSWER_S)
        channel = connection.channel()
        found = channel.queue_declare(queue, passive=True)
        # What has messages or consumers is run by somebody; and a message would be taken out.
        if not (found.message_count or found.consumer_count):
            channel.basic_get(queue)
    except amqp.NotFound:
        return Health.MISSING
    except amqp.AccessRefused:
        return Health.REFUSED
    except amqp.InternalError:
        return Health.BROKEN
    except Exception:  # noqa: BLE001 - py-amqp raises many kinds where a connection ends
        return Health.SILENT
    finally:
        close_connection(connection)
    return Health.SERVED


class Changed(Enum):
    """What became of a queue that was of the other type."""

    DONE = "it was deleted and declared anew"
    NOTHING_TO_DO = "it is of the wanted type already"
    HOLDS_MESSAGES = "it is not empty"
    REFUSED = "RabbitMQ refuses"


def renew(
    url: str, queue: str, bindings: Iterable[Bound], *, name: str, type_: QueueType = "quorum"
) -> Renewal:
    """Delete a broken queue and declare it anew, with its bindings. Raises BrokerAway.

    A queue that is none of ours, with arguments, stays as it is.
    """
    connection = open_connection(url, name=name, heartbeat_s=0)
    is_deleted = False
    try:
        connection.sock.settimeout(ANSWER_S)
        channel = connection.channel()
        declare_either(channel, Queue(queue, type_))
        channel.queue_delete(queue)
        is_deleted = True
        _declare_bound(channel, Queue(queue, type_), bindings)
    except Exception as error:  # noqa: BLE001 - as above
        return Renewal(is_deleted, f"{type(error).__name__}: {error}"[:500])
    finally:
        close_connection(connection)
    return Renewal(is_deleted)


def change_type(
    url: str, queue: str, bindings: Iterable[Bound], *, name: str, type_: QueueType
) -> tuple[Changed, str]:
    """Make an empty queue one of that type, with its bindings; and in whose words not.

    One that has messages, or arguments, stays as it is; one with a binding that this user may not
    make; and one that does not answer, for of that RabbitMQ says that it is empty. Raises
    BrokerAway.
    """
    connection = open_connection(url, name=name, heartbeat_s=0)
    try:
        connection.sock.settimeout(ANSWER_S)
        channel = connection.channel()
        found, messages = declare_either(channel, Queue(queue, type_))
        if found == type_:
            return Changed.NOTHING_TO_DO, ""
        bound = list(bindings)
        for one in bound:  # it is so bound already; who may not do it again would lose it
            _bind(channel, queue, one)
        if messages or channel.basic_get(queue) is not None:  # given back with the connection
            return Changed.HOLDS_MESSAGES, ""
        channel.queue_delete(queue, if_empty=found == "classic")  # quorum queues do not know it
        # Somebody of the other setting may have been faster.
        became, _ = declare_either(channel, Queue(queue, type_))
        for one in [(RUNS, queue, {}), *bound]:
            _bind(channel, queue, one)
        if became != type_:
            return Changed.REFUSED, "a process of another setting declared it meanwhile"
    except Exception as error:  # noqa: BLE001 - as above
        return Changed.REFUSED, f"{type(error).__name__}: {error}"[:500]
    finally:
        close_connection(connection)
    return Changed.DONE, ""


def _declare_bound(channel: Any, queue: Queue, bindings: Iterable[Bound]) -> None:
    declare_queue(channel, queue)
    channel.queue_bind(queue.name, RUNS, queue.name)
    for one in bindings:
        _bind(channel, queue.name, one)


def _bind(channel: Any, queue: str, bound: Bound) -> None:
    exchange, key, arguments = bound
    channel.queue_bind(queue, exchange, key, arguments=arguments)
