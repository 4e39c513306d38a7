"""A workflow's start by name as an event: for the task API, and for the console's form."""

from typing import Any

import msgspec

from veltrix.domain.events import STARTS_SOURCE_PREFIX, STARTS_TYPE, NewEvent, content_digest
from veltrix.domain.json_text import json_problem
from veltrix.pipeline.accept.event_list import DirectStart, Submission
from veltrix.pipeline.accept.receipts import EventConflict
from veltrix.web.bodies import too_large
from veltrix.web.catalog import StartableWorkflow
from veltrix.web.event_problems import Unanswered, problem_of_event
from veltrix.web.problems import Problem
from veltrix.web.services import Services

_JSON = "application/json"


def submission_of(
    services: Services,
    author: str,
    workflow: StartableWorkflow,
    input_: msgspec.Raw,
    id_: str,
    start: DirectStart,
) -> Submission | Problem:
    """The event that starts the workflow, or what is wrong with the input."""
    raw = bytes(input_)
    if len(raw) > services.settings.event_bytes_max:
        raise too_large(
            f"an input has more than the {services.settings.event_bytes_max:,} bytes allowed"
        )
    if raw and (problem := json_problem(raw)):
        return Problem("invalid-body", f"input is {problem}", attribute="input")
    value: Any = msgspec.json.decode(raw) if raw else None
    if violations := workflow.violations(value):
        first = f"{violations[0].at or '/'}: {violations[0].message}"
        detail = (
            f"the input does not fit the workflow {start.workflow!r}: {first}"
            if raw
            else f"the workflow {start.workflow!r} takes an input: send it as `input`"
        )
        return Problem(
            "invalid-input",
            detail,
            attribute="input",
            errors=[{"at": v.at, "message": v.message} for v in violations],
        )
    return Submission(
        NewEvent(
            source=STARTS_SOURCE_PREFIX + start.workflow,
            id=id_,
            type=STARTS_TYPE,
            digest=content_digest(STARTS_TYPE, None, _JSON, None, raw),
            datacontenttype=_JSON if raw else None,
            data_json=raw.decode() if raw else None,
        ),
        author,
        start,
    )


def problem_of_start(error: Unanswered) -> Problem:
    """Why this start was not taken."""
    if isinstance(error, EventConflict):
        return Problem(
            "idempotency-key-reused",
            f"the key {error.event_id!r} was used for another start of it: send a new key",
            event=error.event,
        )
    return problem_of_event(error)
