"""Definitions of RabbitMQ as it exports and imports them: queues with what policies give them."""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import msgspec

from veltrix.doctor.examine import Unread

# Made by Celery for a moment each; what they lose is nobody's.
_PASSING = re.compile(r"celeryev|\.pidbox$|\.reply\.celery|^amq\.gen-|^celery_delayed_\d+$")
_PARTS = {"queues", "exchanges", "policies", "bindings", "permissions", "users", "vhosts"}


class DefinedPlace(msgspec.Struct, frozen=True):
    """Where something is defined."""

    file: str
    line: int | None


class DefinedPolicy(msgspec.Struct, kw_only=True):
    """A policy of a definitions file."""

    name: str
    vhost: str
    pattern: str
    kinds: str
    definition: dict[str, Any]
    priority: int
    place: DefinedPlace

    def matches(self, queue: "DefinedQueue") -> bool:
        """RabbitMQ would choose among those that match."""
        own = "streams" if queue.type == "stream" else f"{queue.type}_queues"
        kinds = {"all", "queues", own}
        try:
            is_meant = re.search(self.pattern, queue.name) is not None
        except re.error:
            return False
        return self.vhost == queue.vhost and self.kinds in kinds and is_meant


class DefinedQueue(msgspec.Struct, kw_only=True):
    """A queue, or (`is_policy`) all those of a policy that matches none in the file."""

    name: str
    vhost: str
    type: str
    arguments: dict[str, Any]
    place: DefinedPlace
    is_durable: bool = True
    is_auto_delete: bool = False
    policy: DefinedPolicy | None = None
    is_policy: bool = False

    def limit(self, key: str) -> Any:
        """What is in effect; of two numbers the lower."""
        by_policy = self.policy.definition.get(key) if self.policy else None
        given = [one for one in (by_policy, self.arguments.get(f"x-{key}")) if one is not None]
        if len(given) > 1 and all(isinstance(one, int) for one in given):
            return min(given)
        return given[-1] if given else None

    def place_of(self, *keys: str) -> DefinedPlace:
        """Of the policy that gives one of these limits, else of the queue."""
        if self.policy is not None and any(key in self.policy.definition for key in keys):
            return self.policy.place
        return self.place

    @property
    def told(self) -> str:
        """It in words."""
        return f"{'queues of policy' if self.is_policy else 'queue'} {self.name!r}"

    @property
    def is_passing(self) -> bool:
        """Of Celery's remote control and events: short-lived by design."""
        return _PASSING.search(self.name) is not None


class DefinedExchange(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange, with whether anything is bound to it."""

    name: str
    vhost: str
    is_durable: bool
    is_auto_delete: bool
    is_bound: bool
    place: DefinedPlace


class BrokerDefinitions(msgspec.Struct, kw_only=True):
    """What all definitions of one broker make together. `troubles`: files that cannot be read."""

    queues: list[DefinedQueue] = []
    exchanges: list[DefinedExchange] = []
    policies: list[DefinedPolicy] = []
    troubles: list[str] = []


def is_definitions(document: Any) -> TypeGuard[dict[str, Any]]:
    """It has parts as RabbitMQ names them."""
    return isinstance(document, dict) and any(
        isinstance(document.get(part), list) for part in _PARTS
    )


def parsed(text: str, file: str) -> Any:
    """The document. Raises Unread, without a word of what is in it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unread(
            f"{file} is not JSON (line {error.lineno}); export it again with"
            f" `rabbitmqctl export_definitions`"
        ) from None
    except (RecursionError, ValueError):
        raise Unread(
            f"{file} is nested too deeply, or has too long a number; it is not read"
        ) from None


def defined(documents: list[tuple[dict[str, Any], str, str]]) -> BrokerDefinitions:
    """Of (document, text, file) that one broker reads. What has another form is left out."""
    found = BrokerDefinitions()
    defaults = {
        _text(one, "name"): _text(one, "default_queue_type")
        for document, _, _ in documents
        for one in _rows(document, "vhosts")
    }
    bound = {
        (_text(one, "vhost"), _text(one, "source"))
        for document, _, _ in documents
        for one in _rows(document, "bindings")
    }
    for document, text, file in documents:
        places = _Places(text, file)
        found.policies += [_policy(one, places) for one in _rows(document, "policies")]
        found.queues += [_queue(one, defaults, places) for one in _rows(document, "queues")]
        found.exchanges += [
            DefinedExchange(
                name=_text(one, "name"),
                vhost=_text(one, "vhost"),
                is_durable=one.get("durable") is not False,
                is_auto_delete=one.get("auto_delete") is True,
                is_bound=(_text(one, "vhost"), _text(one, "name")) in bound,
                place=places.of("exchanges", _text(one, "name")),
            )
            for one in _rows(document, "exchanges")
        ]
    for queue in found.queues:
        matching = [one for one in found.policies if one.matches(queue)]
        queue.policy = max(matching, key=lambda one: one.priority, default=None)
    met = {id(one) for one in found.policies if any(map(one.matches, found.queues))}
    found.queues += [
        _of_policy(one)
        for one in found.policies
        if id(one) not in met and one.kinds not in {"exchanges", "streams"}
    ]
    return found


def _rows(document: dict[str, Any], part: str) -> Iterator[dict[str, Any]]:
    rows = document.get(part)
    return (one for one in (rows if isinstance(rows, list) else ()) if isinstance(one, dict))


def _text(one: dict[str, Any], key: str) -> str:
    value = one.get(key)
    return value if isinstance(value, str) else ""


def _mapping(one: dict[str, Any], key: str) -> dict[str, Any]:
    value = one.get(key)
    return value if isinstance(value, dict) else {}


def _queue(one: dict[str, Any], defaults: dict[str, str], places: "_Places") -> DefinedQueue:
    arguments = _mapping(one, "arguments")
    vhost = _text(one, "vhost")
    given = arguments.get("x-queue-type") or _text(one, "type") or defaults.get(vhost)
    return DefinedQueue(
        name=_text(one, "name"),
        vhost=vhost,
        type=str(given or "classic").removeprefix("rabbit_").removesuffix("_queue"),
        arguments=arguments,
        place=places.of("queues", _text(one, "name")),
        is_durable=one.get("durable") is not False,
        is_auto_delete=one.get("auto_delete") is True,
    )


def _policy(one: dict[str, Any], places: "_Places") -> DefinedPolicy:
    priority = one.get("priority")
    return DefinedPolicy(
        name=_text(one, "name"),
        vhost=_text(one, "vhost"),
        pattern=_text(one, "pattern"),
        kinds=_text(one, "apply-to") or "all",
        definition=_mapping(one, "definition"),
        priority=priority if isinstance(priority, int) else 0,
        place=places.of("policies", _text(one, "name")),
    )


def _of_policy(one: DefinedPolicy) -> DefinedQueue:
    """Queues that are made at run time have what it says."""
    return DefinedQueue(
        name=one.name,
        vhost=one.vhost,
        type=one.kinds.removesuffix("_queues") if one.kinds.endswith("_queues") else "unknown",
        arguments={},
        place=one.place,
        policy=one,
        is_policy=True,
    )


class _Places:
    """Lines of names: JSON has none, so the text is looked through after the part's own name."""

    def __init__(self, text: str, file: str) -> None:
        self._text, self._file = text, file

    def of(self, part: str, name: str) -> DefinedPlace:
        begin = re.search(rf'"{part}"\s*:', self._text)
        told = re.escape(json.dumps(name, ensure_ascii=False))
        at = re.compile(rf'"name"\s*:\s*{told}').search(self._text, begin.end()) if begin else None
        line = self._text.count("\n", 0, at.start()) + 1 if at else None
        return DefinedPlace(self._file, line)
