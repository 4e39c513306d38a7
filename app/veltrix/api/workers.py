"""`GET /v1/workers`: who runs what."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.operations.books.read_workers import WorkerPage, page
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import require
from veltrix.web.problems import Problem
from veltrix.web.requests import storable
from veltrix.web.services import services_of

router = APIRouter(tags=["workers"])

_ROW: dict[str, Any] = {
    "name": "veltrix@host-1",
    "is_present": True,
    "started_at": "2026-01-31T11:00:00Z",
    "seen_at": "2026-01-31T12:00:00Z",
    "releases": ["9d1f0c"],
    "queues": ["orders"],
    "workflows": ["fulfil_order"],
    "code_versions": {"fulfil_order": ["3f2a9c"]},
    "children": [
        {
            "id": "veltrix@host-1/4711",
            "started_at": "2026-01-31T11:00:00Z",
            "seen_at": "2026-01-31T12:00:00Z",
            "is_present": True,
            "claimed_2s": 12,
        }
    ],
}


@router.get(
    "/v1/workers",
    summary="Workers, by name",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers("A page of workers", WorkerPage, {"items": [_ROW], "next": None}, 400, 503),
)
def list_workers(
    request: Request,
    cursor: Annotated[str | None, Query(max_length=4_000)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """What their children last said of themselves, each about every second, or 5 s while idle.

    Workers of the last five minutes, without those that ended as they should. `next` is the
    `cursor` of the following page; null when there is none.
    """
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = page(tx, after=None if cursor is None else _name_of(cursor), limit=limit)
    if found.next is not None:
        found.next = found.next.encode().hex()
    return json_answer(found)


def _name_of(cursor: str) -> str | None:
    """The worker that a page ended with: any text may be a name, so a cursor is more than that."""
    try:
        name = bytes.fromhex(cursor).decode()
    except ValueError:
        name = ""
    if not name:
        raise Problem("invalid-request", "cursor must be what a page before gave as its next")
    return storable("cursor", name)
