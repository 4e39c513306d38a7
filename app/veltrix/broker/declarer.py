"""Declaring and looking over a connection of its own, apart from the one that publishes.

Questions are asked without waiting for the answer to the one before: however far RabbitMQ is, many
queues cost the time of a few round trips. A refusal ends the channel and whatever was asked after
it, so each costs a round trip more: a call bears a few of them and leaves the rest to the next.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import amqp
import msgspec

from veltrix.broker.asked import Ask, ask_all, ask_binding, ask_exchange, ask_queue
from veltrix.broker.connect import BrokerAway, close_connection, open_connection
from veltrix.broker.names import RUNS
from veltrix.broker.topology import Binding, Queue, QueueType, wanted

T = TypeVar("T")

CONTROL_TIMEOUT_S = 10.0
MISSING_MAX, REFUSALS_MAX = 2, 4  # in one call
_NO_RIGHT = "it is not there, and our user has no right to declare it: a relay's has"

Counts = tuple[int, int]  # messages ready, consumers


class Ensured(msgspec.Struct, frozen=True):
    """What a look at some queues found, and what declaring them did.

    A queue in none of the lists was not reached: ask again for it.
    """

    missing: list[str]  # before anything was declared
    empty: list[str]  # no message ready; a consumer may hold unacknowledged ones
    unconsumed: list[str]  # those of `empty` that have no consumer: they hold nothing at all
    there: list[str]  # they exist now
    refused: dict[str, str]  # what could not be declared, and the broker's words
    unasked: list[str] = []  # those of `there` that no declaration reached: of any type, perhaps


class Declarer:
    """A connection for declaring and looking, apart from the one that publishes.

    It never publishes, so an alarm does not block it; and a closed channel costs no confirms.
    Opened when first used, again after it was lost. Whoever keeps it looks at least once per
    heartbeat, if only at no queue: RabbitMQ closes a connection that says nothing. For one thread.
    """

    def __init__(
        self, url: str, *, name: str, heartbeat_s: int, queue_type: QueueType = "quorum"
    ) -> None:
        self._url, self._name, self._heartbeat_s = url, name, heartbeat_s
        self._queue_type: QueueType = queue_type
        self._connection: Any = None
        self._channel: Any = None
        self._has_exchanges = False
        self._may_declare = True  # by this connection's user

    def look(self, queues: Collection[str]) -> Ensured:
        """What is there now, declaring nothing. Raises BrokerAway."""
        if not queues and self._connection is not None:
            self._work(_say_something)
        return _found(*self._work(_look, sorted(set(queues))), {})

    def ensure(self, queues: Collection[str], *, is_looking: bool = True) -> Ensured:
        """Look at each queue, then declare everything, one queue's refusal not stopping another.

        Those that were not reached by the look are declared all the same: an empty one may have
        been missing. So may each, without a look: most are expected to be. A queue that is there
        and may not be declared is used as it is. Whose user may not declare our exchange is told so
        once by each connection, and only looks from then on. Raises BrokerAway.
        """
        names = sorted(set(queues))
        found, missing = self._work(_look, names if is_looking else ())
        refused: dict[str, str] = {}
        if not self._has_exchanges:
            self._may_declare, refused = self._work(_declare_exchanges)
            self._has_exchanges = True
        if not self._may_declare:
            found, missing = (found, missing) if is_looking else self._work(_look, names)
            return _found(found, missing, dict.fromkeys(missing, _NO_RIGHT))
        declared, refusals = self._work(_declare_queues, names, self._queue_type)
        return _found(declared | found, missing, refused | refusals, declared)

    def close(self) -> None:
        """Let the connection go. Never raises."""
        connection, self._connection, self._channel = self._connection, None, None
        self._has_exchanges, self._may_declare = False, True
        if connection is not None:
            close_connection(connection)

    def _work(self, work: Callable[..., T], *args: Any) -> T:
        """Raises BrokerAway, whatever went wrong."""
        try:
            if self._connection is None or not self._connection.connected:
                self.close()
                self._connection = open_connection(
                    self._url, name=self._name, heartbeat_s=self._heartbeat_s
                )
                self._connection.sock.settimeout(CONTROL_TIMEOUT_S)
            # One for all looks: each new one leaves a cycle of garbage, a look comes every two
            # seconds, and a process that makes little else collects it once an hour.
            if self._channel is None or not self._channel.is_open:
                self._channel = self._connection.channel()
            result = work(self._channel, *args)
        except BrokerAway:
            raise
        except Exception as error:  # py-amqp raises many kinds
            self.close()
            raise BrokerAway(f"{type(error).__name__}: {error}") from error
        return result


def _found(
    counts: dict[str, Counts],
    missing: list[str],
    refused: dict[str, str],
    declared: Collection[str] | None = None,
) -> Ensured:
    empty = sorted(name for name, (messages, _) in counts.items() if messages == 0)
    there = {*counts, *(declared or ())}
    return Ensured(
        missing=missing,
        empty=[name for name in empty if name not in missing],
        unconsumed=[name for name in empty if counts[name][1] == 0 and name not in missing],
        there=sorted(there),
        refused=refused,
        unasked=[] if declared is None else sorted(there - set(declared) - refused.keys()),
    )


def _say_something(channel: Any) -> None:
    """The least that RabbitMQ answers; its own heartbeats are read on the way."""
    channel.basic_qos(prefetch_size=0, prefetch_count=0, a_global=False)


def _look(channel: Any, names: Sequence[str]) -> tuple[dict[str, Counts], list[str]]:
    """(messages ready, consumers) of those that are there, and those that are missing."""
    found: dict[str, Counts] = {}
    missing: list[str] = []
    rest = names
    for _ in range(MISSING_MAX):
        answers, error = ask_all(channel, [ask_queue(Queue(name), passive=True) for name in rest])
        found.update(zip(rest, map(_counts, answers), strict=False))
        if error is None:
            break
        if isinstance(error, amqp.NotFound):
            missing.append(rest[len(answers)])
        rest = rest[len(answers) + 1 :]
    return found, missing


def _declare_exchanges(channel: Any) -> tuple[bool, dict[str, str]]:
    """Whether this user may declare, and what was refused to one who may."""
    topology = wanted([])
    first, *others = topology.exchanges
    _, error = ask_all(channel, [ask_exchange(first)])
    if isinstance(error, amqp.AccessRefused):
        return False, {}
    asks = [
        *map(ask_exchange, others),
        *map(ask_queue, topology.queues),
        *map(ask_binding, topology.bindings),
    ]
    _, refused = _ask_each(channel, [(RUNS, [ask]) for ask in asks])
    return True, refused if error is None else {RUNS: str(error)} | refused


def _declare_queues(
    channel: Any, names: Sequence[str], type_: QueueType
) -> tuple[dict[str, Counts], dict[str, str]]:
    return _ask_each(
        channel,
        [
            (name, [ask_queue(Queue(name, type_)), ask_binding(Binding(RUNS, name, name))])
            for name in names
        ],
    )


def _ask_each(
    channel: Any, groups: Sequence[tuple[str, list[Ask]]]
) -> tuple[dict[str, Counts], dict[str, str]]:
    """The first answers by name, and what was refused; the others are asked all the same."""
    found: dict[str, Counts] = {}
    refused: dict[str, str] = {}
    rest = groups
    for _ in range(REFUSALS_MAX):
        asks = [
            (name, number == 0, ask) for name, group in rest for number, ask in enumerate(group)
        ]
        answers, error = ask_all(channel, [ask for _, _, ask in asks])
        for (name, is_first, _), answer in zip(asks, answers, strict=False):
            if is_first and len(answer) == 3:
                found[name] = _counts(answer)
        if error is None:
            break
        failed = asks[len(answers)][0]
        refused.setdefault(failed, str(error))
        rest = rest[_group_of(rest, len(answers)) + 1 :]
    return found, refused


def _group_of(groups: Sequence[tuple[str, list[Ask]]], asked: int) -> int:
    """Which group the question with this number is in."""
    for index, (_, group) in enumerate(groups):
        asked -= len(group)
        if asked < 0:
            return index
    raise IndexError(asked)


def _counts(answer: Sequence[Any]) -> Counts:
    _, messages, consumers = answer
    return messages, consumers
