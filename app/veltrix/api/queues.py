"""`GET /v1/queues/unserved`: where work waits for a worker that is not there."""

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.pipeline.relay.queue_rows import Unserved, unserved
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import require
from veltrix.web.services import services_of

router = APIRouter(tags=["workers"])


class UnservedQueues(msgspec.Struct):
    """The queues with open runs that no worker serves, by name."""

    queues: list[Unserved]


_ROW = {"queue": "orders", "runs": 12, "oldest_started_at": "2026-01-31T12:00:00Z"}


@router.get(
    "/v1/queues/unserved",
    summary="Queues with open runs that no worker serves",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers("All of them", UnservedQueues, {"queues": [_ROW]}, 400, 503),
)
def list_unserved(request: Request) -> Response:
    """Runs are counted up to 1,000 in each. No queue is named while each has a worker."""
    services = services_of(request)
    with open_autocommit(services.engine) as tx:
        found = UnservedQueues(unserved(tx))
    return json_answer(found)
