"""`/v1/failures`: what failed in the same way, and what people decide about it."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers, content
from veltrix.domain.failure_groups import GroupKind, GroupState
from veltrix.operations.failures.read import (
    GroupFilter,
    GroupPage,
    GroupStory,
    Order,
    has,
    page,
    redact,
    story,
)
from veltrix.operations.failures.triage import (
    Moved,
    Noted,
    NotMoved,
    ignore,
    note,
    reopen,
    resolve,
)
from veltrix.operations.runs.query import Word
from veltrix.store.transactions import open_autocommit, transaction
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, may_see_payloads, require
from veltrix.web.bounds import check_bounds
from veltrix.web.idempotency import answer_once
from veltrix.web.not_done import no_such_group, problem_of_group
from veltrix.web.problems import Problem
from veltrix.web.requests import ParameterText, ReasonBody, body_of, decoded, storable, utc
from veltrix.web.services import services_of

router = APIRouter(tags=["failures"])

_Reader = Annotated[Author, Depends(require(Scope.RUNS_READ, is_audited=True))]
_Operator = Annotated[Author, Depends(require(Scope.RUNS_REPLAY))]


class ResolveBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Mended in this version of the code; without one, in whatever runs now. And why."""

    reason: Word
    version: Word | None = None


class NoteBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to keep beside the group."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=4_000)]

    @property
    def reason(self) -> str:
        """What must be storable, as in every body."""
        return self.text


class MovedAnswer(msgspec.Struct):
    """The group is in this state now."""

    id: str
    state: GroupState


class NoteAnswer(msgspec.Struct):
    """The note is kept under this id."""

    id: str
    note: int


_ID = "5f1c0a9e5f1c0a9e"
_ROW: dict[str, Any] = {
    "id": _ID,
    "kind": "run",
    "state": "open",
    "workflow": "fulfil_order",
    "step": "charge",
    "type": "PaymentDeclined",
    "message": "the bank does not answer",
    "queue": None,
    "reason": None,
    "source": None,
    "event_type": None,
    "count": 1204,
    "archived": 0,
    "total": 1204,
    "first_seen_at": "2026-01-31T11:20:00Z",
    "last_seen_at": "2026-01-31T12:00:00Z",
    "resolved_version": None,
    "state_changed_at": "2026-01-31T11:20:00Z",
    "state_changed_by": None,
    "state_reason": None,
    "by_hour": [0] * 22 + [1000, 204],
    "redacted": False,
}
_STORY: dict[str, Any] = {
    **_ROW,
    "sparkline": [{"since": "2026-01-31T11:00:00Z", "seen": 1000}],
    "bucket_s": 3600,
    "versions": [
        {
            "code_version": "3f2a9c",
            "seen": 1204,
            "first_seen_at": "2026-01-31T11:00:00Z",
            "last_seen_at": "2026-01-31T12:00:00Z",
        }
    ],
    "runs": [],
    "dead_letters": [],
    "events": [],
    "notes": [],
}


@router.get(
    "/v1/failures",
    summary="Failure groups",
    responses=answers("A page of groups", GroupPage, {"items": [_ROW], "next": None}, 400, 503),
)
def list_failures(
    request: Request,
    author: _Reader,
    kind: GroupKind | None = None,
    state: Annotated[list[GroupState] | None, Query(max_length=4)] = None,
    workflow: ParameterText = None,
    since: datetime | None = None,
    empty: bool = False,
    order: Order = "last_seen",
    cursor: ParameterText = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """What failed in the same way is one group. `order`: last seen, last begun or largest first.

    `state` may be given more than once. Groups in which nothing is failed now are listed with
    `empty=true`. Counts are a second old at most while a relay runs. Runs of a group: `GET
    /v1/runs?state=failed&fingerprint=` its id. Without the scope `payloads:read` messages are null.
    """
    wanted = GroupFilter(
        kind=kind,
        states=tuple(state or ()),
        workflow=storable("workflow", workflow),
        since=utc(since),
        is_empty=empty,
    )
    after = storable("cursor", cursor)
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        if after is not None and not has(tx, after):
            detail = "cursor must be what a page before gave as its next, and is no group"
            raise Problem("invalid-request", detail)
        found = page(tx, wanted, order, cursor=after, limit=limit)
    if not may_see_payloads(author):
        for row in found.items:
            redact(row)
    return json_answer(found)


@router.get(
    "/v1/failures/{group_id}",
    summary="A failure group, with samples",
    responses=answers("The group as it is now", GroupStory, _STORY, 400, 404, 503),
)
def read_failure(request: Request, group_id: str, author: _Reader) -> Response:
    """`sparkline` has hours, or days where it began more than two days ago."""
    services = services_of(request)
    with transaction(services.engine, snapshot=True) as tx:
        found = story(tx, _group_id(group_id))
    if found is None:
        raise no_such_group(group_id)
    if not may_see_payloads(author):
        redact(found)
    return json_answer(found)


def _documented(type_: type, body: type, example: dict[str, Any]) -> dict[str, Any]:
    answer = {"id": _ID, "note": 7} if type_ is NoteAnswer else {"id": _ID, "state": "resolved"}
    return {
        "responses": answers("Done", type_, answer, *(400, 404, 409, 413, 422, 503)),
        "openapi_extra": {"requestBody": {"required": True, "content": content(body, example)}},
    }


@router.post(
    "/v1/failures/{group_id}/resolve",
    summary="Say that a failure group is mended",
    **_documented(MovedAnswer, ResolveBody, {"version": "3f2a9c", "reason": "bank is back"}),
)
async def resolve_failure(request: Request, group_id: str, author: _Operator) -> Response:
    """In `version`: a failure of that code or of later code makes it `regressed`; of older, not.

    422 if a version is named for a group that is not of runs. 409 if it is resolved already, with
    who did it. Takes an `Idempotency-Key`.
    """
    await check_bounds(request, author, group=_group_id(group_id))
    raw = await body_of(request)
    body = decoded(raw, ResolveBody)
    storable("version", body.version)
    engine, id_ = services_of(request).engine, _group_id(group_id)
    call = partial(resolve, engine, id_, body.version, body.reason, author.name)
    return await _answer(request, author, raw, call)


@router.post(
    "/v1/failures/{group_id}/ignore",
    summary="Ignore a failure group",
    **_documented(MovedAnswer, ReasonBody, {"reason": "a test tenant"}),
)
async def ignore_failure(request: Request, group_id: str, author: _Operator) -> Response:
    """It is counted as before. Takes an `Idempotency-Key`."""
    return await _decide(request, group_id, author, ignore)


@router.post(
    "/v1/failures/{group_id}/reopen",
    summary="Open a failure group again",
    **_documented(MovedAnswer, ReasonBody, {"reason": "it was not that"}),
)
async def reopen_failure(request: Request, group_id: str, author: _Operator) -> Response:
    """What was resolved or ignored is open again. Takes an `Idempotency-Key`."""
    return await _decide(request, group_id, author, reopen)


@router.post(
    "/v1/failures/{group_id}/notes",
    summary="Write a note beside a failure group",
    **_documented(NoteAnswer, NoteBody, {"text": "the bank says 14:00"}),
)
async def note_failure(request: Request, group_id: str, author: _Operator) -> Response:
    """It is kept for ever, with its author. Takes an `Idempotency-Key`."""
    await check_bounds(request, author, group=_group_id(group_id))
    raw = await body_of(request)
    body = decoded(raw, NoteBody)
    engine = services_of(request).engine
    call = partial(note, engine, _group_id(group_id), body.text, author.name)
    return await _answer(request, author, raw, call)


async def _decide(
    request: Request,
    group_id: str,
    author: Author,
    decide: Callable[[Any, str, str, str], Moved | NotMoved],
) -> Response:
    await check_bounds(request, author, group=_group_id(group_id))
    raw = await body_of(request)
    body = decoded(raw, ReasonBody)
    engine = services_of(request).engine
    call = partial(decide, engine, _group_id(group_id), body.reason, author.name)
    return await _answer(request, author, raw, call)


async def _answer(
    request: Request, author: Author, raw: bytes, call: Callable[[], Moved | Noted | NotMoved]
) -> Response:
    def made() -> Response:
        answer = call()
        if isinstance(answer, NotMoved):
            raise problem_of_group(answer)
        return json_answer(answer)

    return await answer_once(request, author, raw, partial(run_in_threadpool, made))


def _group_id(text: str) -> str:
    if len(text) > 100:
        raise no_such_group(text[:100])
    return str(storable("the id", text))
