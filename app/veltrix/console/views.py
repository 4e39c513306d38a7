"""The lists of the console, and search: read only."""

from functools import partial

import msgspec
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.access import audit
from veltrix.access.audit import AuditPage
from veltrix.access.scopes import Scope
from veltrix.console.exports import as_file, exported
from veltrix.console.query import (
    AuditRequest,
    EventsRequest,
    RunsRequest,
    audit_request,
    events_request,
    number,
    runs_request,
    text,
)
from veltrix.console.rendering import address, flower_url, rendered
from veltrix.console.sessions import Visitor
from veltrix.domain.states import OPEN, RunState
from veltrix.operations.runs import bulk, read, read_events, search
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read import RunPage
from veltrix.operations.runs.read_events import EventFilter, EventPage
from veltrix.operations.runs.read_waits import waits
from veltrix.pipeline.accept import ledger_rows
from veltrix.releases import subscription_rows
from veltrix.releases.read import standing
from veltrix.store.transactions import open_autocommit
from veltrix.web.problems import Problem
from veltrix.web.services import services_of

ROWS = 50


class WorkflowLine(msgspec.Struct, frozen=True):
    """A workflow that can be started, as its newest code declares it."""

    workflow: str
    code_version: str
    queue: str
    types: tuple[str, ...]
    since: str | None
    is_checked: bool
    workers: int
    back_from: str | None


def runs(request: Request, visitor: Visitor) -> Response:
    """Runs, newest first, by the filters of the address."""
    query = runs_request(request.query_params)
    with _connection(request) as tx:
        found = _runs(tx, query, query.cursor, ROWS)
        known = subscription_rows.current(tx)
        waiting = waits(tx, found.items)
    return rendered(
        request,
        visitor,
        "runs.html",
        place="Runs",
        found=found,
        states=list(RunState),
        waits=waiting,
        workflows=[row.workflow for row in known],
        queues=sorted({row.queue for row in known}),
        is_filtered=query.by_event is not None or query.runs != RunQuery(),
        cancellable=_cancellable(request, visitor, query, found),
    )


def runs_file(request: Request, _visitor: Visitor, suffix: str) -> Response:
    """The same as a file."""
    query = runs_request(request.query_params)
    with _connection(request) as tx:
        find = partial(_runs, tx, query)
        return exported("runs", suffix, find, query.cursor)


def events(request: Request, visitor: Visitor) -> Response:
    """Events, newest first, by the filters of the address."""
    query = events_request(request.query_params)
    with _connection(request) as tx:
        found = _events(tx, query, query.cursor, ROWS)
    return rendered(
        request,
        visitor,
        "events.html",
        place="Events",
        found=found,
        is_filtered=query.events != EventFilter(),
    )


def events_file(request: Request, _visitor: Visitor, suffix: str) -> Response:
    """The same as a file."""
    query = events_request(request.query_params)
    with _connection(request) as tx:
        find = partial(_events, tx, query)
        return exported("events", suffix, find, query.cursor)


def event(request: Request, visitor: Visitor) -> Response:
    """An event as it was sent, and the runs it started."""
    id_ = canonical(request.path_params["event_id"])
    with _connection(request) as tx:
        found = read_events.find(tx, id_) if id_ is not None else None
        if found is None or id_ is None:
            raise Problem("not-found", f"there is no event {request.path_params['event_id']}")
        started = read.page(tx, RunQuery(event=id_), limit=200).items
        waiting = waits(tx, started)
    return rendered(
        request, visitor, "event.html", place="Events", event=found, runs=started, waits=waiting
    )


def workflows(request: Request, visitor: Visitor) -> Response:
    """The workflows that can be started, with their open and failed runs one click away."""
    with _connection(request) as tx:
        found = standing(tx)
    return rendered(request, visitor, "workflows.html", place="Workflows", workflows=found)


def workflows_file(request: Request, _visitor: Visitor, suffix: str) -> Response:
    """The same as a file."""
    with _connection(request) as tx:
        found = standing(tx)
    rows = [
        WorkflowLine(
            row.workflow,
            row.code_version,
            row.queue,
            row.types,
            None if row.since is None else row.since.isoformat(),
            row.input_schema is not None,
            row.children,
            row.replaced if row.is_back else None,
        )
        for row in found
    ]
    return as_file("workflows", suffix, rows)


def audit_rows(request: Request, visitor: Visitor) -> Response:
    """Who did what and why, newest first."""
    query = audit_request(request.query_params)
    with _connection(request) as tx:
        found = audit.page(tx, query.rows, cursor=query.cursor, limit=ROWS)
    return rendered(request, visitor, "audit.html", place="Audit", found=found)


def audit_file(request: Request, visitor: Visitor, suffix: str) -> Response:
    """The same as a file; without what was asked for those who may not see payloads."""
    query = audit_request(request.query_params)
    start = None if query.cursor is None else str(query.cursor)
    with _connection(request) as tx:

        def find(cursor: str | None, limit: int) -> AuditPage:
            found = _audit(tx, query, cursor, limit)
            if not visitor.sees_payloads:
                found.items = [audit.redacted(row) for row in found.items]
            return found

        return exported("audit", suffix, find, start)


def audit_row(request: Request, visitor: Visitor) -> Response:
    """One row of the audit with the exact set of runs."""
    id_ = number(request.path_params, "row_id")
    with _connection(request) as tx:
        found = audit.entry(tx, id_) if id_ is not None else None
    if found is None:
        raise Problem("not-found", f"the audit has no row {request.path_params['row_id']}")
    return rendered(request, visitor, "audit_row.html", place="Audit", row=found)


def found(request: Request, visitor: Visitor) -> Response:
    """What a word may mean; one hit by id is gone to at once."""
    word = text(request.query_params, "q")
    hits = None
    if word is not None:
        with _connection(request) as tx:
            hits = search.look_up(tx, word)
        if canonical(word) is not None:
            if hits.events:
                return RedirectResponse(address(f"/events/{hits.events[0].event}"), 303)
            if len(hits.runs) == 1:
                return RedirectResponse(address(f"/runs/{hits.runs[0].id}"), 303)
    return rendered(request, visitor, "search.html", word=word, hits=hits)


def delivery(request: Request, _visitor: Visitor) -> Response:
    """From a Celery task of Flower to its run: the id of a message is that of its first run."""
    given = request.path_params["delivery_id"]
    id_ = canonical(given)
    if id_ is None:
        raise Problem(
            "not-found",
            f"{given!r} is not the id of a message of Veltrix (a UUID): follow a link in Flower",
        )
    return RedirectResponse(address(f"/runs/{id_}"), 303)


def flower(request: Request, visitor: Visitor) -> Response:
    """Where Flower is, and what it cannot know."""
    services = services_of(request)
    return rendered(
        request,
        visitor,
        "flower.html",
        place="Flower",
        url=flower_url(services.settings),
    )


def _connection(request: Request) -> Connection:
    services = services_of(request)
    return open_autocommit(services.engine)


def _cancellable(
    request: Request, visitor: Visitor, query: RunsRequest, seen: RunPage
) -> int | None:
    """How many open runs the filter asks for; None: for others too, or nobody may cancel them."""
    is_open = query.runs.state in OPEN and query.by_event is None
    if not is_open or not visitor.may(Scope.RUNS_REPLAY):
        return None
    if query.cursor is None and seen.next is None:
        return len(seen.items) or None
    services = services_of(request)
    found = bulk.count(services.engine, bulk.BulkAction.CANCEL, query.runs)
    return None if isinstance(found, bulk.NotDone) else found


def _runs(tx: Connection, query: RunsRequest, cursor: str | None, limit: int) -> RunPage:
    events_ = query.by_event
    if events_ is not None:
        return search.runs_of_events(tx, events_, query.runs, cursor=cursor, limit=limit)
    return read.page(tx, query.runs, cursor=cursor, limit=limit)


def _events(tx: Connection, query: EventsRequest, cursor: str | None, limit: int) -> EventPage:
    """Source and id together are the identity of one event, which is looked up."""
    wanted = query.events
    if wanted.source is not None and wanted.id is not None and cursor is None:
        known = ledger_rows.known(tx, [(wanted.source, wanted.id)])
        ids = [one.event_id for one in known.values()]
        stories = [story for id_ in ids if (story := read_events.find(tx, id_)) is not None]
        return EventPage([read_events.row_of(story) for story in stories], None)
    return read_events.page(tx, wanted, cursor=cursor, limit=limit)


def _audit(tx: Connection, query: AuditRequest, cursor: str | None, limit: int) -> AuditPage:
    at = None if cursor is None else int(cursor)
    return audit.page(tx, query.rows, cursor=at, limit=limit)
