"""Which workflows an event type starts."""

from collections.abc import Iterable, Sequence

import msgspec

from veltrix.domain.events import CANARY_TYPE_PREFIX, CANARY_WORKFLOW
from veltrix.domain.ids import workflow_suffix

_TYPES_REMEMBERED_MAX = 10_000


class Route(msgspec.Struct, frozen=True, gc=False):
    """A workflow that is started, its queue, and the suffix its run ids carry."""

    workflow: str
    queue: str
    suffix: str


def is_match(pattern: str, type_: str) -> bool:
    """Whether a subscription's `a.b` or `a.*` covers an event type; `a.*` does not cover `a`."""
    if pattern.endswith(".*"):
        return type_.startswith(pattern[:-1]) and len(type_) >= len(pattern)
    return pattern == type_


class RoutingTable:
    """The subscriptions as of one moment, asked by event type."""

    def __init__(self, subscribed: Iterable[tuple[str, str, Sequence[str]]]) -> None:
        """`subscribed`: (workflow, queue, types) of each workflow."""
        self._exact: dict[str, list[Route]] = {}
        self._prefixes: list[tuple[str, Route]] = []
        subscribed = sorted(subscribed, key=lambda s: s[0])
        for workflow, queue, types in subscribed:
            route = Route(workflow, queue, workflow_suffix(workflow))
            for pattern in types:
                if pattern.endswith(".*"):
                    self._prefixes.append((pattern, route))
                else:
                    self._exact.setdefault(pattern, []).append(route)
        self._canaries = {
            CANARY_TYPE_PREFIX + queue: [Route(CANARY_WORKFLOW, queue, suffix)]
            for suffix in [workflow_suffix(CANARY_WORKFLOW)]
            for queue in {queue for _, queue, _ in subscribed}
        }
        self._remembered: dict[str, list[Route]] = {}

    def routes(self, type_: str) -> list[Route]:
        """What an event of this type starts: each workflow once, by name. Empty: unrouted.

        A canary goes through the queue of its type, and starts nothing that a pattern names.
        """
        found = self._remembered.get(type_)
        if found is None:
            is_canary = type_.startswith(CANARY_TYPE_PREFIX)
            every = (
                self._canaries.get(type_, [])
                if is_canary
                else [
                    *self._exact.get(type_, ()),
                    *(route for pattern, route in self._prefixes if is_match(pattern, type_)),
                ]
            )
            found = sorted(set(every), key=lambda route: route.workflow)
            if len(self._remembered) >= _TYPES_REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[type_] = found
        return found
