"""`/v1/retention`: for how long history is kept, and what may leave by that."""

from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers, content
from veltrix.operations.retention.plan import DAYS_MAX, RetentionPlan, plan
from veltrix.operations.retention.policies import (
    POLICIES_MAX,
    RetentionStanding,
    SetPolicy,
    set_policies,
    standing,
)
from veltrix.operations.retention.rules import PolicyOutcome, PolicyRefused, RetentionPolicy
from veltrix.operations.runs.query import WORD_CHARS_MAX, Word
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, require
from veltrix.web.bounds import check_bounds
from veltrix.web.not_done import problem_of_policy
from veltrix.web.problems import Problem
from veltrix.web.requests import ParameterText, body_of, decoded, storable
from veltrix.web.services import services_of

router = APIRouter(tags=["retention"])

_BYTES_MAX = 256 * 1024
_Days = Annotated[int, msgspec.Meta(ge=1, le=DAYS_MAX)]


class PolicyBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A policy: content and lines are kept for so many seconds; null: for ever.

    Without `workflow` it is of every workflow that has none of its own.
    """

    outcome: PolicyOutcome
    content_s: int | None
    lines_s: int | None
    workflow: Annotated[str, msgspec.Meta(max_length=WORD_CHARS_MAX)] = ""

    def policy(self) -> RetentionPolicy:
        """The same as the rules know it. Raises a Problem for a name that cannot be stored."""
        storable("workflow", self.workflow)
        return RetentionPolicy(self.workflow, self.outcome, self.content_s, self.lines_s)


_Policies = Annotated[list[PolicyBody], msgspec.Meta(max_length=POLICIES_MAX)]


class RetentionBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The policies that are to be in force, and why. Those that are not named stay as they are."""

    policies: Annotated[_Policies, msgspec.Meta(min_length=1)]
    reason: Word


class RetentionPreviewBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the policies in force would let go if these were, too."""

    policies: _Policies = []
    cursor: Word | None = None
    limit: _Days = DAYS_MAX
    reason: None = None


class PoliciesAnswer(msgspec.Struct):
    """All policies in force now."""

    policies: list[SetPolicy]


_POLICY: dict[str, Any] = {
    "workflow": "",
    "outcome": "succeeded",
    "content_s": 2_592_000,
    "lines_s": 34_560_000,
}
_SET = _POLICY | {"changed_by": "ann", "changed_at": "2026-01-31T12:00:00Z"}
_PLAN: dict[str, Any] = {
    "as_of": "2026-01-31T12:00:00Z",
    "policies": [_POLICY],
    "young_since": "2026-01-01T00:00:00Z",
    "days": [
        {
            "since": "2025-12-31T00:00:00Z",
            "until": "2026-01-01T00:00:00Z",
            "events": 1000,
            "runs": 1010,
            "succeeded": 1000,
            "failed": 10,
            "cancelled": 0,
            "leaving": 990,
            "leaving_runs": 1000,
            "bytes": 2_500_000,
            "stay": {
                "open": 0,
                "failed": 10,
                "astray": 0,
                "unrouted": 0,
                "policy": 0,
                "never": 0,
                "young": 0,
                "unsealed": 0,
            },
        }
    ],
    "next": None,
}
_Reader = Annotated[Author, Depends(require(Scope.RUNS_READ))]


@router.get(
    "/v1/retention",
    summary="For how long history is kept",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers(
        "The policies in force, and those that are usual",
        RetentionStanding,
        {"policies": [_SET], "defaults": [_POLICY]},
        *(400, 503),
    ),
)
def read_retention(request: Request) -> Response:
    """What no policy is about is kept for ever: without any of them everything is."""
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        return json_answer(standing(tx))


@router.put(
    "/v1/retention",
    summary="Set for how long history is kept",
    responses=answers(
        "All policies in force now", PoliciesAnswer, {"policies": [_SET]}, *(400, 403, 413, 503)
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(
                RetentionBody, {"policies": [_POLICY], "reason": "as agreed with the data officer"}
            ),
        }
    },
)
async def set_retention(
    request: Request, author: Annotated[Author, Depends(require(Scope.ADMIN))]
) -> Response:
    """Look at `POST /v1/retention/preview` first. Needs the scope `admin`.

    All of them are set, or none. From then on a drop may take what they let go.
    """
    raw = await body_of(request, _BYTES_MAX)
    body: RetentionBody = decoded(raw, RetentionBody)
    policies = [one.policy() for one in body.policies]
    for workflow in sorted({one.workflow for one in policies}):
        await check_bounds(request, author, workflow=workflow or None)
    engine = services_of(request).engine

    def done() -> Response:
        try:
            found = set_policies(engine, policies, body.reason, author.name)
        except PolicyRefused as refused:
            raise problem_of_policy(refused) from None
        return json_answer(PoliciesAnswer(found))

    return await run_in_threadpool(done)


@router.get(
    "/v1/retention/plan",
    summary="What the policies in force let go, by day",
    responses=answers("A page of days", RetentionPlan, _PLAN, 400, 503),
)
def plan_retention(
    request: Request,
    _author: _Reader,
    cursor: ParameterText = None,
    limit: Annotated[int, Query(ge=1, le=DAYS_MAX)] = DAYS_MAX,
) -> Response:
    """Days of the ledger, the oldest first: how many events may leave, and why the others stay.

    A page ends after `limit` days or some seconds, also within a day. `bytes` is an estimate.
    """
    return _planned(services_of(request).engine, [], cursor, limit)


@router.post(
    "/v1/retention/preview",
    summary="What other policies would let go, by day",
    responses=answers("A page of days", RetentionPlan, _PLAN, *(400, 403, 413, 503)),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": content(RetentionPreviewBody, {"policies": [_POLICY], "cursor": None}),
        }
    },
)
async def preview_retention(request: Request, _author: _Reader) -> Response:
    """As `GET /v1/retention/plan`, if these were in force instead of those of the same subject.

    Changes nothing.
    """
    body: RetentionPreviewBody = decoded(await body_of(request, _BYTES_MAX), RetentionPreviewBody)
    policies = [one.policy() for one in body.policies]
    engine = services_of(request).engine
    return await run_in_threadpool(partial(_planned, engine, policies, body.cursor, body.limit))


def _planned(
    engine: Engine, policies: list[RetentionPolicy], cursor: str | None, limit: int
) -> Response:
    try:
        found = plan(engine, policies, cursor=_minute(cursor), days_max=limit)
    except PolicyRefused as refused:
        raise problem_of_policy(refused) from None
    return json_answer(found)


def _minute(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 9):
        detail = "cursor must be what a page before gave as its next"
        raise Problem("invalid-request", detail)
    return int(cursor)
