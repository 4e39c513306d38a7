"""Why an event was not taken, as a problem: for the api, and for the console's starts."""

from typing import Any

from veltrix.pipeline.accept.event_checks import BadEvent
from veltrix.pipeline.accept.receipts import (
    AcceptUnavailable,
    EventConflict,
    EventForbidden,
    EventRefused,
    EventUnrouted,
)
from veltrix.web.problems import Problem, unavailable

Unanswered = BadEvent | EventRefused | AcceptUnavailable | Problem


def problem_of_event(error: Unanswered) -> Problem:
    """Why this event was not taken."""
    match error:
        case Problem():
            return error
        case BadEvent():
            members: dict[str, Any] = {}
            if error.attribute is not None:
                members["attribute"] = error.attribute
            return Problem("bad-event", error.detail, **members)
        case EventConflict():
            return Problem("event-conflict", str(error), event=error.event)
        case EventForbidden():
            return Problem("event-forbidden", str(error))
        case EventUnrouted():
            return Problem("event-unrouted", str(error))
        case AcceptUnavailable():
            return unavailable(str(error), error.retry_after_s)
    return Problem("event-unstorable", str(error))
