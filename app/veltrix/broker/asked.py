"""Questions to RabbitMQ, many at once: AMQP answers those of a channel in the order they came."""

from collections.abc import Sequence
from typing import Any

import amqp
import msgspec
from amqp import spec

from veltrix.broker.topology import Binding, Exchange, Queue


class Ask(msgspec.Struct, frozen=True):
    """A method of AMQP, its encoded form's pattern, and the method that answers it."""

    method: tuple[int, int]
    pattern: str
    args: tuple[Any, ...]
    answer: tuple[int, int]


def ask_queue(queue: Queue, *, passive: bool = False) -> Ask:
    """Declare it, or only look: (name, messages ready, consumers)."""
    arguments = {"x-queue-type": queue.type}
    args = (0, queue.name, passive, True, False, False, False, arguments)
    return Ask(spec.Queue.Declare, "BsbbbbbF", args, spec.Queue.DeclareOk)


def ask_exchange(exchange: Exchange) -> Ask:
    """Declare it."""
    args = (0, exchange.name, exchange.type, False, True, False, False, False, exchange.arguments)
    return Ask(spec.Exchange.Declare, "BssbbbbbF", args, spec.Exchange.DeclareOk)


def ask_binding(binding: Binding) -> Ask:
    """Bind the queue."""
    args: tuple[Any, ...] = (0, binding.queue, binding.exchange, binding.routing_key, False, {})
    return Ask(spec.Queue.Bind, "BsssbF", args, spec.Queue.BindOk)


def ask_all(
    channel: Any, asks: Sequence[Ask]
) -> tuple[list[tuple[Any, ...]], amqp.ChannelError | None]:
    """The answers in the order asked, up to the first that is refused, and the refusal.

    RabbitMQ does nothing of what was asked after that; py-amqp has opened the channel again.
    """
    for ask in asks:
        channel.send_method(ask.method, ask.pattern, ask.args)
    answers: list[tuple[Any, ...]] = []
    try:
        answers.extend(tuple(channel.wait(ask.answer, returns_tuple=True) or ()) for ask in asks)
    except amqp.ChannelError as error:
        return answers, error
    return answers, None
