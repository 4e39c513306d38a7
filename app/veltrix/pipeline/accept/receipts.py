"""What a producer is answered, and why an event is refused.

EventRefused
 +-- EventConflict      the identity is in the ledger with other content (409)
 +-- EventUnstorable    PostgreSQL cannot take this one (400)
 +-- EventUnrouted      nobody subscribes and the settings refuse such events (422)
 +-- EventForbidden     the key that sent it is bound to others (403)
AcceptUnavailable       nothing was taken: try again (503)
"""

import msgspec

from veltrix.domain.ids import Id


class StartedRun(msgspec.Struct, frozen=True, gc=False):
    """One run that an event started."""

    id: Id
    workflow: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The event is committed, and so are the runs it started: producers may rely on it."""

    id: str
    source: str
    event: Id
    runs: list[StartedRun]
    duplicate: bool


class EventRefused(Exception):
    """This event was not taken; its neighbours may have been. `word`: why, in metrics."""

    word = "refused"

    def __init__(self, message: str, source: str, event_id: str) -> None:
        super().__init__(message)
        self.source, self.event_id = source, event_id


class EventConflict(EventRefused):
    """An event with this source and id is in the ledger with other content."""

    word = "conflict"

    def __init__(self, source: str, event_id: str, event: str) -> None:
        super().__init__(
            f"event {event_id!r} from {source!r} has other content, accepted before as {event};"
            " send a new id for a new fact",
            source,
            event_id,
        )
        self.event = event


class EventUnstorable(EventRefused):
    """The database cannot hold a value of this event."""

    word = "unstorable"


class EventUnrouted(EventRefused):
    """No workflow subscribes to the event's type and `refuse_unrouted` is set."""

    word = "unrouted"

    def __init__(self, source: str, event_id: str, type_: str) -> None:
        super().__init__(
            f"no workflow subscribes to {type_!r}; `veltrix workflows list` shows which types do",
            source,
            event_id,
        )


class EventForbidden(EventRefused):
    """The key that sent it is bound to other sources or types."""

    word = "forbidden"


class AcceptUnavailable(Exception):
    """Nothing was taken. `retry_after_s` is when trying again is worth it."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
