"""What somebody who only has RabbitMQ's password may do to a worker: ask, and send what is read."""

from collections.abc import Callable
from itertools import islice
from typing import Any, NoReturn

from celery.worker.control import Panel
from kombu import compression

# `hello` takes revoked ids with it, the dumps of memory take time.
_ASKING = frozenset(
    {
        *("active", "active_queues", "clock", "conf", "ping", "query_task", "registered"),
        *("report", "reserved", "revoked", "scheduled", "stats"),
    }
)


# An answer is a message: for one above MESSAGE_BYTES_MAX RabbitMQ would close the channel.
_ANSWERS_MAX = 500


class Compressed(ValueError):
    """A message is compressed, as none of ours is: nobody knows how long it would become."""


def only_inspecting() -> None:
    """Of Celery's remote control only what asks: a worker is led by its settings and by signals.

    A `pool_shrink` or `cancel_consumer` would leave a worker that looks well and does nothing.
    """
    for name in tuple(Panel.meta):
        if name not in _ASKING:
            del Panel.meta[name]
            Panel.data.pop(name, None)
        elif name in Panel.data:
            Panel.data[name] = _brief(Panel.data[name])


def _brief(ask: Callable[..., Any]) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        told = ask(*args, **kwargs)
        if isinstance(told, list):
            return told[:_ANSWERS_MAX]
        return dict(islice(told.items(), _ANSWERS_MAX)) if isinstance(told, dict) else told

    return answer


def refuse_compressed() -> None:
    """No message is decompressed in this process, whatever its headers say."""
    for content_type in compression.encoders():
        compression.register(_refuse, _refuse, content_type)


def _refuse(_body: Any) -> NoReturn:
    raise Compressed("it is compressed, and no message of ours is")
