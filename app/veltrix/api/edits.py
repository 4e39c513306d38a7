"""A failed run's payload edited by hand: it runs again as a new run, linked to its origin."""

from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers, content
from veltrix.api.parsing import read_beside
from veltrix.api.replay_bodies import patch_of
from veltrix.api.run_answers import RUN_ID
from veltrix.domain.json_text import json_problem
from veltrix.operations.replays import edit_rows
from veltrix.operations.replays.edit import EditOf
from veltrix.operations.replays.edit_rows import EditStory
from veltrix.operations.replays.patch import replacing
from veltrix.operations.replays.plan import EditedNow, edit_now
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.query import Word
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, check_asked, require
from veltrix.web.bounds import check_bounds
from veltrix.web.idempotency import answer_once
from veltrix.web.not_done import no_such_run, refusing
from veltrix.web.problems import Problem
from veltrix.web.requests import IdText, body_of, decoded
from veltrix.web.services import services_of

router = APIRouter(tags=["runs"])

_EXTRA_BYTES = 65_536
_NEW_ID = "019a0f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
_REPLAY_ID = "019a0f2e-7c4b-7a10-9d3e-5b0c3c000001"
_Editor = Annotated[Author, Depends(require(Scope.RUNS_EDIT))]


class EditBody(msgspec.Struct, forbid_unknown_fields=True):
    """The whole payload as it is to be (`data`), or a `patch` of it (RFC 6902); and why."""

    reason: Word
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    patch: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@router.post(
    "/v1/runs/{run_id}/edit",
    status_code=201,
    summary="Edit a failed run's payload and run it as a new run",
    responses=answers(
        "The new run is queued",
        EditedNow,
        {"id": _NEW_ID, "origin": RUN_ID, "replay": _REPLAY_ID, "state": "queued"},
        *(400, 404, 409, 412, 413, 422, 428, 503),
        status=201,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(
                EditBody, {"data": {"cents": 100}, "reason": "the shop sent cents as text"}
            ),
        }
    },
)
async def edit_run(
    request: Request,
    run_id: IdText,
    author: _Editor,
    if_match: Annotated[
        str | None, Header(description="The ETag of the run, as GET /v1/runs/{run_id} gave it")
    ] = None,
) -> Response:
    """The origin stays failed; the new run belongs to an event of its own and names its origin.

    `If-Match` is required: 412 if anybody replayed or edited the run since it was read. The payload
    must fit the workflow's declared input. A `patch` needs the scope `payloads:read` too. Takes
    an `Idempotency-Key`.
    """
    services = services_of(request)
    bytes_max = services.settings.event_bytes_max
    await check_bounds(request, author, run_ids=[run_id])
    raw = await body_of(request, bytes_max + _EXTRA_BYTES)
    body = decoded(raw, EditBody)
    id_ = canonical(run_id)
    if id_ is None:
        raise no_such_run(run_id)
    if if_match is None:
        raise Problem(
            "precondition-required",
            "send If-Match with the ETag that GET /v1/runs/{run_id} gave: it keeps two people from"
            " editing one run",
        )
    patch = await read_beside(author.name, len(raw), lambda: patch_of(body.patch))
    if patch is not None:  # what it says of a payload that it does not fit shows the payload
        await check_asked(request, author, Scope.PAYLOADS_READ)
    if (patch is None) == (body.data is msgspec.UNSET):
        raise Problem(
            "invalid-body",
            "send either data (the whole new payload) or patch (RFC 6902), and not both",
        )
    if patch is None:
        payload = bytes(body.data)
        if problem := await read_beside(author.name, len(payload), lambda: json_problem(payload)):
            raise Problem("invalid-body", f"data is {problem}")
        patch = replacing(payload.decode())
    limits = (services.acceptor.new_ids, services.settings.accounts_max)
    of = EditOf("", author.name, body.reason, bytes_max, *limits)
    tag = None if if_match.strip() == "*" else if_match.strip()

    def call() -> Response:
        made = refusing(lambda: edit_now(services.engine, id_, patch, tag, of))
        headers = {"Location": f"/v1/runs/{made.id}"}
        return json_answer(made, 201, headers)

    return await answer_once(request, author, raw, partial(run_in_threadpool, call))


@router.get(
    "/v1/runs/{run_id}/edit",
    summary="How a run was made from its origin: the patch, by whom and why",
    responses=answers(
        "The edit that made this run",
        EditStory,
        {
            "run": _NEW_ID,
            "origin": RUN_ID,
            "origin_generation": 0,
            "replay": _REPLAY_ID,
            "author": "ann",
            "reason": "the shop sent cents as text",
            "edited_at": "2026-01-31T12:00:00Z",
            "patch": [{"op": "replace", "path": "/cents", "value": 100}],
        },
        404,
        503,
    ),
)
def read_edit(
    request: Request,
    run_id: IdText,
    _reader: Annotated[Author, Depends(require(Scope.RUNS_READ))],
    _payloads: Annotated[Author, Depends(require(Scope.PAYLOADS_READ, is_audited=True))],
) -> Response:
    """Needs the scopes `runs:read` and `payloads:read`. 404 for a run that no edit made."""
    services = services_of(request)
    id_ = canonical(run_id)
    with open_autocommit(services.engine) as tx:
        found = None if id_ is None else edit_rows.find(tx, id_)
    if found is None:
        raise Problem(
            "not-found",
            f"there is no run {run_id!r} that an edit made; GET /v1/runs/{{run_id}} has any run",
        )
    return json_answer(found)
