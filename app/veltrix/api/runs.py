"""`/v1/runs`: what became of runs, and what operators and callers may do to them."""

from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.api.documented import answers, content
from veltrix.api.outcomes import WaitS, check_wait, outcomes_of
from veltrix.api.run_answers import RUN, RUN_ID, STORY, answer_of, read_story
from veltrix.api.run_filters import WantedRuns
from veltrix.domain.ids import Id
from veltrix.domain.states import OPEN, ReplayMode, RunState
from veltrix.operations.replays.move import Replayed, replay_now
from veltrix.operations.runs.cancel import Cancelled, CancelRequested, cancel
from veltrix.operations.runs.query import Word
from veltrix.operations.runs.read import RunPage, page
from veltrix.operations.runs.read_story import RunStory
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, require
from veltrix.web.bounds import check_bounds
from veltrix.web.idempotency import answer_once
from veltrix.web.not_done import not_cancelled, not_replayed
from veltrix.web.requests import IdText, ParameterText, ReasonBody, body_of, decoded, id_of
from veltrix.web.services import services_of
from veltrix.web.throttle import Throttle

router = APIRouter(tags=["runs"])


class ReplayBody(msgspec.Struct, rename={"mode": "from"}, forbid_unknown_fields=True):
    """From where to run again, and why: the reason is kept with the run."""

    mode: ReplayMode
    reason: Word


class ReplayAnswer(msgspec.Struct):
    """The run is queued again, with `steps_kept` entries of its journal, by this replay."""

    id: Id
    state: RunState
    generation: int
    steps_kept: int
    replay: Id | None


class CancelAnswer(msgspec.Struct):
    """`cancelled`; or `running`: a worker holds it, or is about to, until its next step."""

    id: Id
    state: RunState


_Reader = Depends(require("runs:read"))
_StoryReader = Annotated[Author, Depends(require("runs:read", is_audited=True))]
_Operator = Annotated[Author, Depends(require("runs:replay"))]


@router.get(
    "/v1/runs",
    summary="Runs, newest first",
    dependencies=[_Reader],
    responses=answers("A page of runs", RunPage, {"items": [RUN], "next": RUN_ID}, 400, 503),
)
def list_runs(
    request: Request,
    wanted: WantedRuns,
    archived: bool = False,
    cursor: ParameterText = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """`next` is the `cursor` of the following page; null when there is none. A page may be short.

    Archived runs are listed with `archived=true`, and only those are. `since` <= time of acceptance
    < `until`; `event` is the ledger's id of an event.
    """
    wanted = msgspec.structs.replace(wanted, archived=archived)
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = page(tx, wanted, cursor=id_of("cursor", cursor), limit=limit)
    return json_answer(found)


@router.get(
    "/v1/runs/{run_id}",
    summary="A run: its state, steps, failed attempts and outcome",
    responses=answers("The run as it is now", RunStory, STORY, 400, 404, 429, 503),
)
async def read_run(
    request: Request,
    run_id: IdText,
    author: _StoryReader,
    wait_s: WaitS = 0,
) -> Response:
    """With `wait_s` the answer comes when the run is settled, the time is over, or the api ends.

    To a key without the scope `payloads:read` it comes `redacted`: outcome, arguments, outputs and
    errors of steps, messages and tracebacks are null.
    """
    check_wait(request, wait_s)
    services = services_of(request)
    read = partial(read_story, services.engine, run_id)
    run = await run_in_threadpool(read)
    if wait_s > 0 and run.state in OPEN:
        watch = outcomes_of(request)
        throttle: Throttle = request.app.state.throttle
        with throttle.aside(author), watch.place(author):
            await watch.wait(run.id, wait_s, request.receive)
        run = await run_in_threadpool(read)
    return answer_of(run, author)


@router.post(
    "/v1/runs/{run_id}/replay",
    summary="Run a failed run again",
    responses=answers(
        "The run is queued again",
        ReplayAnswer,
        {
            "id": RUN_ID,
            "state": "queued",
            "generation": 1,
            "steps_kept": 2,
            "replay": "019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b",
        },
        *(400, 404, 409, 413, 422, 503),
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(ReplayBody, {"from": "failed_step", "reason": "payments are back"}),
        }
    },
)
async def replay_run(request: Request, run_id: IdText, author: _Operator) -> Response:
    """`failed_step` keeps what finished before it; `beginning` keeps nothing.

    Only a failed run is run again: 409 names the state of any other. Takes an `Idempotency-Key`.
    """
    await check_bounds(request, author, run_ids=[run_id])
    raw = await body_of(request)
    body = decoded(raw, ReplayBody)
    engine = services_of(request).engine
    call = partial(_replay, engine, run_id, body.mode, body.reason, author.name)
    return await answer_once(request, author, raw, partial(run_in_threadpool, call))


@router.post(
    "/v1/runs/{run_id}/cancel",
    summary="Cancel an open run",
    responses=answers(
        "The run is cancelled, or will be before its next step",
        CancelAnswer,
        {"id": RUN_ID, "state": "cancelled"},
        *(400, 404, 409, 413, 422, 503),
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(ReasonBody, {"reason": "the customer changed her mind"}),
        }
    },
)
async def cancel_run(request: Request, run_id: IdText, author: _Operator) -> Response:
    """409 names the state of a run that is settled already. Takes an `Idempotency-Key`."""
    await check_bounds(request, author, run_ids=[run_id])
    raw = await body_of(request)
    body = decoded(raw, ReasonBody)
    call = partial(_cancel, services_of(request).engine, run_id, body.reason, author.name)
    return await answer_once(request, author, raw, partial(run_in_threadpool, call))


def _replay(engine: Engine, run_id: str, mode: ReplayMode, reason: str, author: str) -> Response:
    now = replay_now(engine, [run_id], mode, reason, author)
    (answer,) = now.answers
    if not isinstance(answer, Replayed):
        raise not_replayed(run_id, answer.state, answer.why)
    again = ReplayAnswer(
        answer.run_id, RunState.QUEUED, answer.generation, answer.steps_kept, now.replay_id
    )
    return json_answer(again)


def _cancel(engine: Engine, run_id: str, reason: str, author: str) -> Response:
    (answer,) = cancel(engine, [run_id], reason, author)
    if not isinstance(answer, Cancelled | CancelRequested):
        raise not_cancelled(run_id, answer.state)
    is_over = isinstance(answer, Cancelled)
    state = RunState.CANCELLED if is_over else RunState.RUNNING
    return json_answer(CancelAnswer(answer.run_id, state))
