"""`GET /v1/workflows`: what can be started."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.web.auth import Author, require

if TYPE_CHECKING:
    from veltrix.web.services import Services

router = APIRouter(tags=["workflows"])


class WorkflowRow(msgspec.Struct):
    """A workflow as its current code declares it.

    `types` are the event types that start it, `shop.*` for all below; since when. `options` are its
    limits and retries; `input_schema` is a JSON Schema, null: any input.
    """

    name: str
    types: tuple[str, ...]
    queue: str
    code_version: str
    since: datetime | None
    options: dict[str, Any]
    input_schema: dict[str, Any] | None


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
        }
    ]
}


@router.get(
    "/v1/workflows",
    summary="List the workflows",
    responses=answers("All of them", WorkflowList, _EXAMPLE, 400, 503),
)
async def list_workflows(
    request: Request, _author: Annotated[Author, Depends(require(Scope.RUNS_READ))]
) -> Response:
    """Every workflow that can be started, the event types that start it, and its input schema."""
    services: Services = request.app.state.services
    known = await services.catalog.workflows()
    rows = [
        WorkflowRow(
            row.workflow,
            row.types,
            row.queue,
            row.code_version,
            row.since,
            row.options,
            row.input_schema,
        )
        for row in (known[name].subscription for name in sorted(known))
    ]
    return Response(msgspec.json.encode(WorkflowList(rows)), media_type="application/json")
