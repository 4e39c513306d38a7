"""`/v1/runs/cancel`, `/archive`, `/restore`, and `/replay` of a list; how many a filter is of."""

from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers, content
from veltrix.api.run_answers import RUN_ID
from veltrix.api.run_filters import WantedRuns
from veltrix.domain.ids import Id
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.move import NotReplayed, Replayed, replay_now
from veltrix.operations.runs.bulk import IDS_MAX, BulkAction, BulkRequest, NotDone, act, count
from veltrix.operations.runs.query import RunQuery, RunsFilter, Word
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, require
from veltrix.web.bounds import check_bounds
from veltrix.web.idempotency import answer_once
from veltrix.web.not_done import problem_of_bulk
from veltrix.web.problems import Problem
from veltrix.web.requests import body_of, decoded, storable
from veltrix.web.services import services_of

router = APIRouter(tags=["runs"])

_BODY_BYTES_MAX = 256 * 1024
_Operator = Annotated[Author, Depends(require(Scope.RUNS_REPLAY))]


class BulkBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`ids`, a `filter`, or `all`; and why: the reason is kept with each run.

    `expected`: so many runs the filter was of when somebody looked; nothing is done to other ones.
    """

    reason: Word
    ids: Annotated[list[Id], msgspec.Meta(max_length=IDS_MAX)] | None = None
    filter: RunsFilter | None = None
    all: bool = False
    expected: Annotated[int, msgspec.Meta(ge=0)] | None = None


class BulkAnswer(msgspec.Struct):
    """It was done to so many runs; of a cancel, `requested` more end before their next step."""

    runs: int
    requested: int


class CountAnswer(msgspec.Struct):
    """To so many runs it could be done now."""

    runs: int


class ReplayListBody(msgspec.Struct, rename={"mode": "from"}, forbid_unknown_fields=True):
    """These runs, from where to run them again, and why: the reason is kept with each."""

    ids: Annotated[list[Id], msgspec.Meta(min_length=1, max_length=IDS_MAX)]
    mode: ReplayMode
    reason: Word


class ReplayListAnswer(msgspec.Struct):
    """What became of each run, by id, and the replay that they are; null: none was replayed."""

    replay: Id | None
    replayed: list[Replayed]
    not_replayed: list[NotReplayed]


def _documented(example: dict[str, Any]) -> dict[str, Any]:
    return {
        "responses": answers(
            "Done to every one of these runs",
            BulkAnswer,
            {"runs": 1204, "requested": 0},
            *(400, 404, 409, 413, 422, 503),
        ),
        "openapi_extra": {"requestBody": {"required": True, "content": content(BulkBody, example)}},
    }


@router.post(
    "/v1/runs/cancel",
    summary="Cancel many open runs",
    **_documented({"filter": {"workflow": "fulfil_order"}, "reason": "the shop is closed"}),
)
async def cancel_runs(request: Request, author: _Operator) -> Response:
    """Every one of them at once, or before its next step where a worker holds it; or none.

    404 and 409 name the runs of `ids` that are unknown or settled. A filter takes open runs only.
    One that says no more than a state needs `all: true`. Takes an `Idempotency-Key`.
    """
    return await _answer(request, author, BulkAction.CANCEL)


@router.post(
    "/v1/runs/archive",
    summary="Archive many failed runs",
    **_documented({"filter": {"fingerprint": "5f1c0a9e5f1c0a9e"}, "reason": "paid by hand"}),
)
async def archive_runs(request: Request, author: _Operator) -> Response:
    """They leave the lists and their group's count. In the books they are failed as before.

    All of them or none, as for a cancel. A replay of an archived run restores it.
    """
    return await _answer(request, author, BulkAction.ARCHIVE)


@router.post(
    "/v1/runs/restore",
    summary="Restore many archived runs",
    **_documented({"filter": {"workflow": "fulfil_order"}, "reason": "archived by mistake"}),
)
async def restore_runs(request: Request, author: _Operator) -> Response:
    """They are in the lists again, failed as they were. All of them or none, as for a cancel."""
    return await _answer(request, author, BulkAction.RESTORE)


@router.get(
    "/v1/runs/count",
    summary="To how many runs something can be done",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers("So many, now", CountAnswer, {"runs": 1204}, 400, 413, 503),
)
def count_runs(request: Request, action: BulkAction, wanted: WantedRuns) -> Response:
    """What a cancel, archive or restore with this filter would take; 413 beyond 100,000.

    Sent with it as `expected`, nothing is done when other runs are like that by then.
    """
    found = count(services_of(request).engine, action, wanted)
    if isinstance(found, NotDone) and found.slug != "empty-set":
        raise problem_of_bulk(found)
    answer = CountAnswer(0 if isinstance(found, NotDone) else found)
    return json_answer(answer)


@router.post(
    "/v1/runs/replay",
    summary="Run these failed runs again",
    responses=answers(
        "What became of each of them",
        ReplayListAnswer,
        {
            "replay": "019a0f2e-7c4b-7a10-9d3e-5b0c3c000001",
            "replayed": [{"run_id": RUN_ID, "generation": 1, "steps_kept": 2}],
            "not_replayed": [],
        },
        *(400, 413, 422, 503),
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(
                ReplayListBody,
                {"ids": [RUN_ID], "from": "failed_step", "reason": "payments are back"},
            ),
        }
    },
)
async def replay_runs(request: Request, author: _Operator) -> Response:
    """Those that are failed run again; of the others it is told why not.

    Many runs, with care: POST /v1/replays. Takes an `Idempotency-Key`.
    """
    raw = await body_of(request, _BODY_BYTES_MAX)
    body = decoded(raw, ReplayListBody)
    for id_ in body.ids:
        storable("ids", id_)
    await check_bounds(request, author, run_ids=body.ids)
    engine = services_of(request).engine

    def call() -> Response:
        now = replay_now(engine, body.ids, body.mode, body.reason, author.name)
        answer = ReplayListAnswer(
            now.replay_id,
            [one for one in now.answers if isinstance(one, Replayed)],
            [one for one in now.answers if isinstance(one, NotReplayed)],
        )
        return json_answer(answer)

    return await answer_once(request, author, raw, partial(run_in_threadpool, call))


async def _answer(request: Request, author: Author, action: BulkAction) -> Response:
    raw = await body_of(request, _BODY_BYTES_MAX)
    bulk = _request_of(decoded(raw, BulkBody), action, author)
    wanted = bulk.wanted
    await check_bounds(
        request, author, run_ids=wanted.ids, workflow=wanted.workflow, group=wanted.fingerprint
    )
    call = partial(_act, request, bulk)
    return await answer_once(request, author, raw, partial(run_in_threadpool, call))


def _request_of(body: BulkBody, action: BulkAction, author: Author) -> BulkRequest:
    if body.ids is not None and (body.filter is not None or body.all):
        raise Problem("invalid-request", "send either ids, or a filter or all")
    for id_ in body.ids or ():
        storable("ids", id_)
    ids = None if body.ids is None else tuple(body.ids)
    return BulkRequest(
        action=action,
        wanted=RunQuery(ids=ids) if body.filter is None else RunQuery.from_json(body.filter),
        is_all=body.all,
        expected=body.expected,
        reason=body.reason,
        author=author.name,
    )


def _act(request: Request, bulk: BulkRequest) -> Response:
    done = act(services_of(request).engine, bulk)
    if isinstance(done, NotDone):
        raise problem_of_bulk(done)
    answer = BulkAnswer(done.runs, done.requested)
    return json_answer(answer)
