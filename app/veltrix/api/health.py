"""`/livez`, `/readyz`, `/metrics`."""

from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import State
from starlette.responses import PlainTextResponse, Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.api.looks import Looks
from veltrix.web.answers import json_answer
from veltrix.web.auth import require

if TYPE_CHECKING:
    from veltrix.web.services import Services

router = APIRouter(tags=["health"])

READY_PATH = "/readyz"

_READY = {
    "status": "ready",
    "checks": {
        "database": "ok",
        "schema": "ok",
        "writer": "ok",
        "clock": "ok",
        "large_events": "ok",
        "broker": "ok",
    },
}


class Liveness(msgspec.Struct):
    """The process answers."""

    status: str


class Readiness(msgspec.Struct):
    """Whether events can be accepted, and each thing that this needs."""

    status: str
    checks: dict[str, str] = {}


@router.get(
    "/livez",
    summary="Is the process alive",
    responses=answers("It is", Liveness, {"status": "alive"}),
)
async def livez() -> Response:
    """200 while the process answers."""
    return Response(b'{"status":"alive"}', media_type="application/json")


@router.get(
    READY_PATH,
    summary="Can events be accepted",
    responses=answers("They can", Readiness, _READY)
    | answers("They cannot", Readiness, {"status": "leaving", "checks": {}}, status=503),
)
async def readyz(request: Request) -> Response:
    """200 when the database can write and has the schema this code needs; the broker is only shown.

    503 at once from SIGTERM on, while requests are still answered.
    """
    return await readiness(request.app.state)


async def readiness(state: State) -> Response:
    """The answer, of an api with this state."""
    if state.is_leaving:
        return _not_ready({"status": "leaving"})
    services: Services = state.services
    looks: Looks = state.looks
    checks = dict(await looks.latest())
    checks["writer"] = "ok" if services.acceptor.is_writing else "away"
    checks["clock"] = services.acceptor.clock_trouble or "ok"
    is_ready = all(checks[name] == "ok" for name in ("database", "schema", "writer", "clock"))
    large = "ok" if services.acceptor.is_writing_large else "away (large events are 503)"
    checks["large_events"] = large
    checks["broker"] = "ok" if services.is_broker_up() else "away (not needed to accept events)"
    if services.keys.is_required:
        checks.pop("error", None)  # it may name hosts, and whoever wants may ask here
    if not is_ready:
        return _not_ready({"status": "not ready", "checks": checks})
    body = {"status": "ready", "checks": checks}
    return json_answer(body)


def _not_ready(body: dict[str, Any]) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=503,
        headers={"Retry-After": "1"},
        media_type="application/json",
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    dependencies=[Depends(require(Scope.METRICS_READ))],
    responses={
        200: {
            "description": "In Prometheus' text format",
            "content": {"text/plain": {"example": "veltrix_unaccounted 0.0\n"}},
        }
    },
)
def metrics() -> Response:
    """The metrics of this process in Prometheus' text format. Needs the scope `metrics:read`.

    Addresses of VELTRIX_METRICS_ADDRESSES need no key.
    """
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
