"""`GET /v1/audit`: who did or asked what, why, and what came of it."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from veltrix.access.audit import AuditEntry, AuditFilter, AuditPage, entry, has, page, redacted
from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, may_see_payloads, require
from veltrix.web.problems import Problem
from veltrix.web.requests import ParameterText, storable, utc
from veltrix.web.services import services_of

router = APIRouter(tags=["audit"])

_ID_MAX = 2**63 - 1
_Reader = Annotated[Author, Depends(require(Scope.RUNS_READ, is_audited=True))]
_ROW: dict[str, Any] = {
    "id": 42,
    "at": "2026-01-31T12:00:00Z",
    "author": "ann",
    "action": "run.cancel",
    "target": "run",
    "target_id": "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b",
    "reason": "order withdrawn",
    "runs": 1,
    "runs_digest": None,
    "is_refused": False,
    "hash": "5d41402abc4b2a76b9719d911017c592ae1f2b4c6d8e0a3f5b7c9d1e2f405162",
    "request": {"all": False, "ids": ["01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"]},
    "result": {"action": "cancel", "runs": 1, "requested": 0},
    "redacted": False,
}


@router.get(
    "/v1/audit",
    summary="What was done and refused, newest first",
    responses=answers("A page of the audit", AuditPage, {"items": [_ROW], "next": "42"}, 400, 503),
)
def list_audit(
    request: Request,
    author: _Reader,
    by: ParameterText = None,
    action: ParameterText = None,
    target: ParameterText = None,
    target_id: ParameterText = None,
    refused: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    cursor: Annotated[int | None, Query(ge=0, le=_ID_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """`next` is the `cursor` of the following page. A page may be short. `by` is the author.

    Needs the scope `runs:read`; without `payloads:read` what was asked is null, for it may hold
    payloads.
    """
    wanted = AuditFilter(
        author=storable("by", by),
        action=storable("action", action),
        target=storable("target", target),
        target_id=storable("target_id", target_id),
        is_refused=refused,
        since=utc(since),
        until=utc(until),
    )
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        if cursor is not None and not has(tx, cursor):
            raise Problem(
                "invalid-request",
                "cursor must be what a page before gave as its next; the audit has no entry"
                f" {cursor}",
            )
        found = page(tx, wanted, cursor=cursor, limit=limit)
    if not may_see_payloads(author):
        found.items = [redacted(row) for row in found.items]
    return json_answer(found)


@router.get(
    "/v1/audit/{audit_id}",
    summary="An entry of the audit, with the exact set of runs",
    responses=answers(
        "The entry",
        AuditEntry,
        _ROW | {"run_ids": ["01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"]},
        *(400, 404, 503),
    ),
)
def read_audit(
    request: Request, audit_id: Annotated[int, Path(ge=0, le=_ID_MAX)], author: _Reader
) -> Response:
    """Of a set of more than 100,000 runs there is the digest instead."""
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = entry(tx, audit_id)
    if found is None:
        raise Problem("not-found", f"there is no entry {audit_id} in the audit")
    shown = found if may_see_payloads(author) else redacted(found)
    return json_answer(shown)
