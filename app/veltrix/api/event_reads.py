"""`GET /v1/events`: accepted events, in lists, by their identity, and by our id of them."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import Either, answers
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.read_events import (
    EventFilter,
    EventPage,
    EventStory,
    find,
    find_by_identity,
    page,
    redact,
)
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, may_see_payloads, require
from veltrix.web.methods import EVENTS_PATH
from veltrix.web.problems import Problem
from veltrix.web.requests import IdText, id_of, storable, utc
from veltrix.web.services import services_of

router = APIRouter(tags=["events"])

EventOrPage = Either("EventOrPage", (EventStory, EventPage))

_IDENTITY = {"source", "id"}
_AttributeText = Annotated[str | None, Query(min_length=1, max_length=1_024)]
_Reader = Annotated[Author, Depends(require(Scope.RUNS_READ, is_audited=True))]
_ROW: dict[str, Any] = {
    "event": "01990f2e-7c4b-7a10-9d3e-5b0c3c000000",
    "source": "/shop",
    "id": "order-42-placed",
    "type": "shop.order.placed",
    "subject": "order-42",
    "accepted_at": "2026-01-31T12:00:00Z",
    "unrouted": False,
}
_STORY = _ROW | {
    "runs": [{"id": "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b", "workflow": "fulfil_order"}],
    "time": "2026-01-31T12:59:59+01:00",
    "datacontenttype": "application/json",
    "data": {"order": 42},
}


@router.get(
    EVENTS_PATH,
    summary="Accepted events, newest first; or the one of an identity",
    responses=answers(
        "A page of events; with `source` and `id` the event",
        EventOrPage,
        {"items": [_ROW], "next": _ROW["event"]},
        *(400, 404, 503),
    ),
)
def list_events(
    request: Request,
    author: _Reader,
    source: _AttributeText = None,
    id: Annotated[_AttributeText, Query(description="The event's id, as sent")] = None,  # noqa: A002
    type: Annotated[_AttributeText, Query(description="Exactly this type")] = None,  # noqa: A002
    subject: _AttributeText = None,
    unrouted: Annotated[
        bool | None, Query(description="Only those that started no run, or only those that did")
    ] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """`source` and `id` are the identity of one event: it is told as it was sent, or 404.

    All else asks for a list. `next` is the `cursor` of the following page; null when there is none.
    A page may be short. `since` <= time of acceptance < `until`. Without the scope `payloads:read`
    an event comes `redacted`: without data and extensions.
    """
    if source is not None and id is not None:
        if others := sorted(request.query_params.keys() - _IDENTITY):
            detail = f"source and id name one event: leave {', '.join(others)} out"
            raise Problem("invalid-request", detail)
        return _one(request, author, source, id)
    wanted = EventFilter(
        source=storable("source", source),
        type=storable("type", type),
        subject=storable("subject", subject),
        id=storable("id", id),
        unrouted=unrouted,
        since=utc(since),
        until=utc(until),
    )
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = page(tx, wanted, cursor=id_of("cursor", cursor), limit=limit)
    return json_answer(found)


@router.get(
    f"{EVENTS_PATH}/{{event_id}}",
    summary="An event by our id of it",
    responses=answers("The event as it was sent", EventStory, _STORY, 404, 503),
)
def read_event(request: Request, event_id: IdText, author: _Reader) -> Response:
    """Its `event` in receipts and runs; with the runs it started.

    Without the scope `payloads:read` it comes `redacted`: without data and extensions.
    """
    id_ = canonical(event_id)
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = None if id_ is None else find(tx, id_)
    if found is None:
        raise Problem("not-found", f"there is no event {event_id!r}")
    return _answer(found, author)


def _one(request: Request, author: Author, source: str, id_: str) -> Response:
    storable("source", source)
    storable("id", id_)
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = find_by_identity(tx, source, id_)
    if found is None:
        raise Problem("not-found", f"no event {id_!r} from {source!r} was accepted")
    return _answer(found, author)


def _answer(event: EventStory, author: Author) -> Response:
    if not may_see_payloads(author):
        redact(event)
    return json_answer(event)
