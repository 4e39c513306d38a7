"""What a worker needs of RabbitMQ is there: declared, or, without the right to, found."""

from collections.abc import Iterable, Mapping
from typing import Any

import amqp

from veltrix import telemetry
from veltrix.broker.broken import Health, health_of
from veltrix.broker.topology import QueueType, declare
from veltrix.worker.troubles import Troubles

_TROUBLE, _UNSERVED = "broker_rights", "broker_queues"
# Who cannot be asked says nothing of the queue; one that is missing is seen to elsewhere.
_GOOD = {Health.SERVED, Health.UNKNOWN, Health.MISSING}


def ensure_topology(
    channel: Any, queues: Iterable[str], troubles: Troubles, type_: QueueType
) -> set[str]:
    """The queues that are not there and cannot be declared; all others are there now.

    `channel` is an open kombu channel. A user without the configure right on what is there already
    is as good as one with it. Raises amqp.PreconditionFailed as `declare` does.
    """
    names = list(queues)
    try:
        away = declare(channel, names, type_)
    except amqp.AccessRefused as refused:
        missing = {name for name in names if not is_there(channel, name)}
        if missing:
            say_refused(troubles, f"the queues {', '.join(sorted(missing))}", refused)
        return missing
    if away:
        queues = ", ".join(sorted(away))
        troubles.set(_TROUBLE, f"the classic queues {queues} are on a node that is away")
    else:
        troubles.clear(_TROUBLE)
    return away


def unserved(url: str, queues: Iterable[str]) -> dict[str, Health]:
    """Those that RabbitMQ names and does not serve, and what became of asking."""
    found = {queue: health_of(url, queue, name="veltrix worker repair") for queue in queues}
    return {q: health for q, health in found.items() if health not in _GOOD}


def is_served(url: str, queue: str) -> bool:
    """It is there, and answers who asks it for a message."""
    return health_of(url, queue, name="veltrix worker repair") is Health.SERVED


def say_unserved(troubles: Troubles, unserved: Mapping[str, Health]) -> None:
    """One sentence in `/readyz` while there are any."""
    if not unserved:
        troubles.clear(_UNSERVED)
        return
    told = "; ".join(f"{queue}: {unserved[queue].value}" for queue in sorted(unserved))
    troubles.set(
        _UNSERVED,
        f"queues of this worker are not served ({told}). RabbitMQ's log says why; a relay renews a"
        " queue that nobody runs",
    )


def none_is_missing(troubles: Troubles) -> None:
    """Every queue is there and served."""
    troubles.clear(_TROUBLE)
    troubles.clear(_UNSERVED)


def is_there(channel: Any, queue: str) -> bool:
    """Look, declaring nothing."""
    try:
        channel.queue_declare(queue, passive=True)
    except amqp.NotFound:
        return False
    return True


def say_refused(
    troubles: Troubles, what: str, refused: Exception, *, stops_work: bool = True
) -> None:
    """One sentence, in the log and in `/readyz`."""
    cure = (
        "a relay declares them, or `veltrix topology apply` with a user who has the configure right"
        if stops_work
        else "give the user of VELTRIX_BROKER_URL what `veltrix topology users` says of a worker's"
    )
    detail = f"RabbitMQ refuses to declare {what} ({refused}): {cure}"
    if not any(trouble.detail == detail for trouble in troubles.read()):
        telemetry.logger("worker").warning("broker.refused", detail=detail)
    troubles.set(_TROUBLE if stops_work else "broker_control", detail, stops_work=stops_work)
