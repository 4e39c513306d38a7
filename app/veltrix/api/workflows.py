"""`GET /v1/workflows`: what can be started."""

from datetime import datetime
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.releases.read import standing
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import require
from veltrix.web.services import services_of

router = APIRouter(tags=["workflows"])


class WorkflowRow(msgspec.Struct):
    """A workflow as its current code declares it.

    `types` are the event types that start it, `shop.*` for all below; since when. `options` are its
    limits and retries; `input_schema` is a JSON Schema, null: any input. This code routes the
    events since `routed_at`, before it `replaced` did; `is_back`: that was later code. `children`:
    so many worker children have it.
    """

    name: str
    types: tuple[str, ...]
    queue: str
    code_version: str
    since: datetime | None
    options: dict[str, Any]
    input_schema: dict[str, Any] | None
    routed_at: datetime | None
    replaced: str | None
    is_back: bool
    children: int


class WorkflowList(msgspec.Struct):
    """All workflows that can be started, by name."""

    workflows: list[WorkflowRow]


_EXAMPLE: dict[str, Any] = {
    "workflows": [
        {
            "name": "fulfil_order",
            "types": ["shop.order.placed"],
            "queue": "orders",
            "code_version": "3f2a9c",
            "since": "2026-01-31T11:00:00Z",
            "options": {},
            "input_schema": None,
            "routed_at": "2026-01-31T11:00:00Z",
            "replaced": None,
            "is_back": False,
            "children": 4,
        }
    ]
}


@router.get(
    "/v1/workflows",
    summary="List the workflows",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers("All of them", WorkflowList, _EXAMPLE, 400, 503),
)
def list_workflows(request: Request) -> Response:
    """Every workflow that can be started, the event types that start it, and its input schema."""
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = standing(tx)
    rows = [
        WorkflowRow(
            name=row.workflow,
            types=row.types,
            queue=row.queue,
            code_version=row.code_version,
            since=row.since,
            options=row.options,
            input_schema=row.input_schema,
            routed_at=row.routed_at,
            replaced=row.replaced,
            is_back=row.is_back,
            children=row.children,
        )
        for row in found
    ]
    return json_answer(WorkflowList(rows))
