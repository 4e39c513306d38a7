"""`/v1/replays`: failed runs planned, looked at, and run again with an eye on them."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers, content
from veltrix.api.parsing import read_beside
from veltrix.api.replay_bodies import (
    ROW,
    STORY,
    PlanBody,
    PreviewBody,
    patch_of,
    query_of,
)
from veltrix.api.run_answers import RUN_ID
from veltrix.operations.replays import read as replay_reads
from veltrix.operations.replays.plan import PlanRequest, act, no_such_replay, plan
from veltrix.operations.replays.preview import Previews, preview
from veltrix.operations.replays.read import ReplayedRunsPage, ReplayPage, ReplayStory
from veltrix.operations.replays.rules import (
    ReplayedState,
    ReplayState,
    Verb,
    options_of,
)
from veltrix.operations.runs.action_rows import canonical
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, check_asked, may_see_payloads, require
from veltrix.web.bounds import check_bounds
from veltrix.web.idempotency import answer_once
from veltrix.web.not_done import problem_of_replay, refusing
from veltrix.web.problems import Problem
from veltrix.web.requests import IdText, ReasonBody, body_of, decoded, id_of
from veltrix.web.services import services_of
from veltrix.web.suggestions import nowhere

router = APIRouter(tags=["replays"])

_EXTRA_BYTES = 1024 * 1024  # for the ids beside a payload
_Operator = Annotated[Author, Depends(require(Scope.RUNS_REPLAY))]
_Reader = Annotated[Author, Depends(require(Scope.RUNS_READ, is_audited=True))]
_Cursor = Annotated[str | None, Query(max_length=100)]
_Limit = Annotated[int, Query(ge=1, le=1_000)]


@router.post(
    "/v1/replays",
    status_code=201,
    summary="Plan a replay: nothing moves until it is started",
    responses=answers(
        "The plan: exactly these runs, and what a start would do",
        ReplayStory,
        STORY,
        *(400, 404, 409, 413, 422, 503),
        status=201,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(
                PlanBody, {"group": "5f1c0a9e", "canary": 10, "reason": "payments are back"}
            ),
        }
    },
)
async def plan_replay(request: Request, author: _Operator) -> Response:
    """The set is frozen: what fails later is not in it, what changes meanwhile is skipped.

    A run may be in several plans; it is moved once, and the others skip it. `patch` needs the
    scopes `runs:edit` and `payloads:read`. A filter that leaves no failed run out needs
    `all: true`. Takes an `Idempotency-Key`.
    """
    services = services_of(request)
    raw = await body_of(request, services.settings.event_bytes_max + _EXTRA_BYTES)
    body = decoded(raw, PlanBody)
    patch = await read_beside(author.name, len(raw), lambda: patch_of(body.patch))
    for scope in (Scope.RUNS_EDIT, Scope.PAYLOADS_READ) if patch is not None else ():
        # What a refusal says of a payload that the patch does not fit shows the payload.
        await check_asked(request, author, scope)
    wanted = query_of(body)
    await check_bounds(
        request, author, run_ids=wanted.ids, workflow=wanted.workflow, group=wanted.fingerprint
    )
    settings = services.settings
    options = options_of(
        settings,
        mode=body.mode,
        rate=body.rate,
        canary=body.canary,
        stop_share=body.stop_share,
        patch=patch,
    )
    planned = PlanRequest(
        wanted=wanted,
        is_all=body.all,
        options=options,
        author=author.name,
        reason=body.reason,
        request=msgspec.json.decode(raw),
    )

    def call() -> Response:
        story = refusing(lambda: plan(services.engine, planned, settings.event_bytes_max))
        headers = {"Location": f"/v1/replays/{story.id}"}
        return json_answer(_for(author, story), 201, headers)

    return await answer_once(request, author, raw, partial(run_in_threadpool, call))


@router.post(
    "/v1/replays/preview",
    summary="What a patch would make of payloads, before and after",
    responses=answers(
        "The first runs, each with its payload before and after, or why there is no after",
        Previews,
        {
            "count": 1204,
            "items": [
                {
                    "run": RUN_ID,
                    "workflow": "fulfil_order",
                    "before": {"cents": "100"},
                    "after": {"cents": 100},
                    "patch": [{"op": "replace", "path": "/cents", "value": 100}],
                    "refused": None,
                }
            ],
        },
        *(400, 404, 409, 413, 503),
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(
                PreviewBody,
                {"group": "5f1c0a9e", "patch": [{"op": "remove", "path": "/coupon"}]},
            ),
        }
    },
)
async def preview_edit(
    request: Request,
    author: Annotated[Author, Depends(require(Scope.RUNS_EDIT))],
    _payloads: Annotated[Author, Depends(require(Scope.PAYLOADS_READ))],
) -> Response:
    """Changes nothing. Needs the scopes `runs:edit` and `payloads:read`."""
    services = services_of(request)
    bytes_max = services.settings.event_bytes_max
    raw = await body_of(request, bytes_max + _EXTRA_BYTES)
    body = decoded(raw, PreviewBody)
    patch = await read_beside(author.name, len(raw), lambda: patch_of(body.patch))
    if patch is None:
        raise Problem(
            "invalid-patch",
            "patch is missing: send the JSON Patch (RFC 6902) that is to be looked at",
        )
    look = partial(
        preview,
        services.engine,
        query_of(body),
        patch,
        bytes_max,
        is_all=body.all,
        limit=body.limit,
    )
    found = await run_in_threadpool(refusing, look)
    return json_answer(found)


@router.get(
    "/v1/replays",
    summary="Replays, newest first",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers("A page of replays", ReplayPage, {"items": [ROW], "next": None}, 400, 503),
)
def list_replays(
    request: Request,
    state: ReplayState | None = None,
    cursor: _Cursor = None,
    limit: _Limit = 50,
) -> Response:
    """`next` is the `cursor` of the following page; null when there is none."""
    after = id_of("cursor", cursor)
    return _read(request, lambda tx: replay_reads.page(tx, state=state, cursor=after, limit=limit))


@router.get(
    "/v1/replays/{replay_id}",
    summary="A replay: its plan and how far it is",
    responses=answers("The replay as it is now", ReplayStory, STORY, 404, 503),
)
def read_replay(request: Request, replay_id: IdText, author: _Reader) -> Response:
    """`planned` = left + `skipped` + `replayed`; `replayed` = outcomes + what is open.

    What was asked for, and its patch, are told to who may see payloads (`payloads:read`).
    """
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        story = replay_reads.find(tx, _known(replay_id))
    if story is None:
        raise problem_of_replay(no_such_replay(replay_id))
    return json_answer(_for(author, story))


@router.get(
    "/v1/replays/{replay_id}/runs",
    summary="The runs of a replay, and what became of each",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers(
        "A page of runs, in the order of their turns",
        ReplayedRunsPage,
        {
            "items": [
                {
                    "run": RUN_ID,
                    "workflow": "fulfil_order",
                    "generation": 0,
                    "state": "skipped",
                    "skip_reason": "it has changed since the plan: it is queued in generation 1,"
                    " not failed in 0; bob did replay.beginning",
                    "moved_generation": None,
                    "new_run": None,
                    "moved_at": "2026-01-31T12:00:01Z",
                    "settled_at": None,
                    "run_state": "queued",
                    "run_reason": None,
                }
            ],
            "next": None,
        },
        *(400, 404, 503),
    ),
)
def list_replay_runs(
    request: Request,
    replay_id: IdText,
    state: ReplayedState | None = None,
    cursor: _Cursor = None,
    limit: _Limit = 50,
) -> Response:
    """`next` is the `cursor` of the following page; null when there is none."""
    after, known = id_of("cursor", cursor), _known(replay_id)

    def read(tx: Connection) -> ReplayedRunsPage:
        if replay_reads.find(tx, known) is None:
            raise problem_of_replay(no_such_replay(replay_id))
        return replay_reads.runs(tx, known, state=state, cursor=after, limit=limit)

    return _read(request, read)


def _documented(verb: Verb, reason: str) -> dict[str, Any]:
    return {
        "path": f"/v1/replays/{{replay_id}}/{verb}",
        "responses": answers(
            "The replay as it is now", ReplayStory, STORY, *(400, 404, 409, 413, 422, 503)
        ),
        "openapi_extra": {
            "requestBody": {"required": True, "content": content(ReasonBody, {"reason": reason})}
        },
    }


@router.post(**_documented(Verb.START, "the plan is right"), summary="Start a planned replay")
async def start_replay(request: Request, replay_id: IdText, author: _Operator) -> Response:
    """409 names the state in which this cannot be done. Takes an `Idempotency-Key`."""
    return await _act(request, replay_id, Verb.START, author)


@router.post(**_documented(Verb.PAUSE, "payments are slow"), summary="Pause a replay")
async def pause_replay(request: Request, replay_id: IdText, author: _Operator) -> Response:
    """When it is answered nothing of it moves any more; what was moved goes on.

    409 names the state in which this cannot be done. Takes an `Idempotency-Key`.
    """
    return await _act(request, replay_id, Verb.PAUSE, author)


@router.post(**_documented(Verb.RESUME, "they are quick again"), summary="Resume a replay")
async def resume_replay(request: Request, replay_id: IdText, author: _Operator) -> Response:
    """After a stop it begins with another canary, if it has one.

    409 names the state in which this cannot be done. Takes an `Idempotency-Key`.
    """
    return await _act(request, replay_id, Verb.RESUME, author)


@router.post(**_documented(Verb.ABORT, "it was the wrong group"), summary="Abort a replay")
async def abort_replay(request: Request, replay_id: IdText, author: _Operator) -> Response:
    """When it is answered nothing of it moves any more; what was moved goes on.

    409 names the state in which this cannot be done. Takes an `Idempotency-Key`.
    """
    return await _act(request, replay_id, Verb.ABORT, author)


@router.post("/v1/replays/{replay_id}/{verb}", include_in_schema=False)
async def refuse_verb(
    _replay_id: Annotated[str, Path(alias="replay_id")], verb: str, _author: _Operator
) -> Response:
    """There are no others than those before."""
    raise Problem("invalid-request", nowhere("verb", verb, list(Verb)))


async def _act(request: Request, replay_id: str, verb: Verb, author: Author) -> Response:
    raw = await body_of(request)
    body = decoded(raw, ReasonBody)
    services = services_of(request)
    await check_bounds(request, author, replay=_known(replay_id))

    def call() -> Response:
        known = _known(replay_id)
        turn = partial(act, services.engine, known, verb, reason=body.reason, author=author.name)
        return json_answer(_for(author, refusing(turn)))

    return await answer_once(request, author, raw, partial(run_in_threadpool, call))


def _known(replay_id: str) -> str:
    id_ = canonical(replay_id)
    if id_ is None:
        raise problem_of_replay(no_such_replay(replay_id))
    return id_


def _for(author: Author, story: ReplayStory) -> ReplayStory:
    """The replay as this author may see it."""
    if may_see_payloads(author):
        return story
    return msgspec.structs.replace(story, asked=None, patch=None)


def _read(request: Request, read: Callable[[Connection], Any]) -> Response:
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = read(tx)
    return json_answer(found)
