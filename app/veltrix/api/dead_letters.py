"""`GET /v1/dead-letters`: messages that reached nobody's code."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.pipeline.relay.read_dead_letters import LetterPage, LetterStory, find, page, redact
from veltrix.store.transactions import open_autocommit
from veltrix.web.auth import Author, may_see_payloads, require
from veltrix.web.problems import Problem

if TYPE_CHECKING:
    from veltrix.web.services import Services

router = APIRouter(tags=["dead letters"])

_ID_MAX = 2**63 - 1
_JSON = "application/json"
_Reader = Annotated[Author, Depends(require(Scope.RUNS_READ, is_audited=True))]
_ROW: dict[str, Any] = {
    "id": 42,
    "queue": "orders",
    "reason": "malformed",
    "detail": "it names no run",
    "content_type": "text/plain",
    "body_bytes": 5,
    "run_ids": [],
    "received_at": "2026-01-31T12:00:00Z",
    "seen_at": None,
    "seen_by": None,
    "redacted": False,
}


@router.get(
    "/v1/dead-letters",
    summary="Dead letters, oldest first",
    responses=answers("A page of letters", LetterPage, {"items": [_ROW], "next": None}, 400, 503),
)
def list_dead_letters(
    request: Request,
    author: _Reader,
    unseen: Annotated[bool, Query(description="Only what nobody has marked as seen")] = False,
    cursor: Annotated[int, Query(ge=0, le=_ID_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """`next` is the `cursor` of the following page; null when there is none.

    Those that name runs made them due again; the others are for people to judge, and to mark with
    `veltrix events seen`. Without the scope `payloads:read` the detail is null.
    """
    services: Services = request.app.state.services
    with open_autocommit(services.engine) as tx:
        found = page(tx, after=cursor, limit=limit, unseen_only=unseen)
    if not may_see_payloads(author):
        for letter in found.items:
            redact(letter)
    return Response(msgspec.json.encode(found), media_type=_JSON)


@router.get(
    "/v1/dead-letters/{letter_id}",
    summary="A dead letter, with its headers and body",
    responses=answers(
        "The letter",
        LetterStory,
        _ROW | {"headers": {"x-from": "a script"}, "body": "hello", "body_base64": None},
        *(400, 404, 503),
    ),
)
def read_dead_letter(
    request: Request, letter_id: Annotated[int, Path(ge=0, le=_ID_MAX)], author: _Reader
) -> Response:
    """Without the scope `payloads:read` its detail, headers and body are null."""
    services: Services = request.app.state.services
    with open_autocommit(services.engine) as tx:
        found = find(tx, letter_id)
    if found is None:
        raise Problem(404, "not-found", f"there is no dead letter {letter_id}")
    if not may_see_payloads(author):
        redact(found)
    return Response(msgspec.json.encode(found), media_type=_JSON)
