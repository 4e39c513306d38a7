"""`GET /v1/balance`: the books."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from veltrix.api.documented import answers
from veltrix.operations.books.books import Balance, balance
from veltrix.web.answers import json_answer
from veltrix.web.auth import require
from veltrix.web.services import services_of

router = APIRouter(tags=["balance"])

_COUNTS = {
    "events": {"accepted": 1200, "routed": 1195, "unrouted": 5},
    "runs": {
        "started": 1195,
        "succeeded": 1180,
        "failed": 3,
        "cancelled": 0,
        "open": 12,
        "queued": 8,
        "running": 4,
        "waiting": 0,
    },
    "beside": {"duplicates": 7, "refused": 1, "dead_letters": 0},
    "unaccounted": 0,
}
_EXAMPLE = {
    "as_of": "2026-01-31T12:00:00Z",
    **_COUNTS,
    "accounts": 1,
    "by": [{"source": "/shop", "type": "shop.order.placed", **_COUNTS, "is_overflow": False}],
}


@router.get(
    "/v1/balance",
    summary="The books: accepted against settled and open",
    dependencies=[Depends(require("runs:read"))],
    responses=answers("Both sides, read at one moment", Balance, _EXAMPLE, 400, 503),
)
def read_balance(
    request: Request,
    by: Annotated[
        int, Query(ge=0, le=1_000, description="Most sources and types to list, worst first")
    ] = 100,
    skip: Annotated[
        int, Query(ge=0, le=100_000_000, description="Leave out so many of the worst")
    ] = 0,
) -> Response:
    """Events: accepted = routed + unrouted. Runs: started = succeeded + failed + cancelled + open.

    `unaccounted` is 0, or something was lost or counted twice. `accounts` is how many sources and
    types have books of their own; what came when there were VELTRIX_ACCOUNTS_MAX is in one more,
    `is_overflow`.
    """
    services = services_of(request)
    books = balance(services.engine, by, skip)
    return json_answer(books)
