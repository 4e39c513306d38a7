"""`/livez`, `/readyz`, `/metrics`."""

from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import PlainTextResponse, Response

from app.store.schema import at_head
from app.store.transactions import open_autocommit

if TYPE_CHECKING:
    from app.api.services import Services

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is the process alive")
async def livez() -> Response:
    """200 while the process answers."""
    return Response(b'{"status":"alive"}', media_type="application/json")


@router.get("/readyz", summary="Can events be accepted")
def readyz(request: Request) -> Response:
    """200 when the database is there with the schema this code needs; the broker is only shown.

    503 at once from SIGTERM on, while requests are still answered.
    """
    if request.app.state.is_leaving:
        return _not_ready({"status": "leaving"})
    services: Services = request.app.state.services
    checks: dict[str, Any] = {"database": "away", "schema": "unknown"}
    try:
        with open_autocommit(services.engine) as tx:
            checks["database"] = "ok"
            checks["schema"] = "ok" if at_head(tx) else "not at head: run `veltrix db upgrade`"
    except SQLAlchemyError as error:
        checks["error"] = type(error).__name__
    checks["writer"] = "ok" if services.acceptor.is_writing else "away"
    is_ready = all(checks[name] == "ok" for name in ("database", "schema", "writer"))
    checks["broker"] = "ok" if services.is_broker_up() else "away (not needed to accept events)"
    if not is_ready:
        return _not_ready({"status": "not ready", "checks": checks})
    body = {"status": "ready", "checks": checks}
    return Response(msgspec.json.encode(body), media_type="application/json")


def _not_ready(body: dict[str, Any]) -> Response:
    return Response(
        msgspec.json.encode(body),
        status_code=503,
        headers={"Retry-After": "1"},
        media_type="application/json",
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
def metrics() -> Response:
    """The metrics of this process in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
