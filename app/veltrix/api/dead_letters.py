"""`GET /v1/dead-letters`: messages that reached nobody's code."""

from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers, content
from veltrix.pipeline.relay.dead_letters import see
from veltrix.pipeline.relay.read_dead_letters import LetterPage, LetterStory, find, page, redact
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, may_see_payloads, require
from veltrix.web.bounds import check_bounds
from veltrix.web.idempotency import answer_once
from veltrix.web.problems import Problem
from veltrix.web.requests import body_of, decoded
from veltrix.web.services import services_of

router = APIRouter(tags=["dead letters"])

_ID_MAX = 2**63 - 1
_IDS_MAX = 1_000
_BODY_BYTES_MAX = 64 * 1024
_Operator = Annotated[Author, Depends(require(Scope.RUNS_REPLAY))]
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


class SeenBody(msgspec.Struct, forbid_unknown_fields=True):
    """Letters that somebody has looked at; the reason is kept in the audit."""

    ids: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0, le=_ID_MAX)]],
        msgspec.Meta(min_length=1, max_length=_IDS_MAX),
    ]
    reason: Annotated[str, msgspec.Meta(max_length=1_000)] = ""


class SeenAnswer(msgspec.Struct):
    """So many of them nobody had marked before; who they are marked by."""

    marked: int
    by: str


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
    `POST /v1/dead-letters/seen`. Without the scope `payloads:read` the detail is null.
    """
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = page(tx, after=cursor, limit=limit, unseen_only=unseen)
    if not may_see_payloads(author):
        for letter in found.items:
            redact(letter)
    return json_answer(found)


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
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = find(tx, letter_id)
    if found is None:
        raise Problem("not-found", f"there is no dead letter {letter_id}")
    if not may_see_payloads(author):
        redact(found)
    return json_answer(found)


@router.post(
    "/v1/dead-letters/seen",
    summary="Mark dead letters as seen",
    responses=answers(
        "They are marked", SeenAnswer, {"marked": 1, "by": "ann"}, *(400, 413, 422, 503)
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(SeenBody, {"ids": [42], "reason": "sent by a test"}),
        }
    },
)
async def see_dead_letters(request: Request, author: _Operator) -> Response:
    """They stay and can be read; their groups count them no longer. Takes an `Idempotency-Key`.

    Not for a key that is bound to workflows: a dead letter is of none.
    """
    await check_bounds(request, author)
    raw = await body_of(request, _BODY_BYTES_MAX)
    body = decoded(raw, SeenBody)
    engine = services_of(request).engine

    def call() -> Response:
        marked = see(engine, body.ids, author.name, body.reason)
        return json_answer(SeenAnswer(marked, author.name))

    return await answer_once(request, author, raw, partial(run_in_threadpool, call))
