"""`GET /v1/doctor`: what the watch has found."""

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from veltrix.access.scopes import Scope
from veltrix.api.documented import answers
from veltrix.doctor.watch.report import WatchReport, read_report
from veltrix.store.transactions import open_autocommit
from veltrix.web.answers import json_answer
from veltrix.web.auth import require
from veltrix.web.services import services_of

router = APIRouter(tags=["doctor"])

_FINDING: dict[str, Any] = {
    "key": "O16-1f0c9a7be6d5c413",
    "finding": {
        "id": "O16",
        "severity": "stall",
        "subject": "canaries",
        "title": "a canary event is late",
        "why": "It goes the way of every event of its queue: what users sent waits as well.",
        "found": "the canary of queue 'orders' by 'https://api-1:8080' is accepted and has no"
        " outcome after 31 s; 15 s are allowed",
        "origin": "table canaries",
        "cure": "more workers for that queue",
        "file": None,
        "line": None,
        "source": "docs/how-to/operating.md",
        "accepted": None,
    },
    "appeared_at": "2026-01-31T12:00:00Z",
    "seen_at": "2026-01-31T12:00:20Z",
    "gone_at": None,
}
_REPORT: dict[str, Any] = {
    "look": {
        "watcher": "host-1/5f1c",
        "looked_at": "2026-01-31T12:00:20Z",
        "is_watched": True,
        "took_ms": 41,
        "held": 88,
        "not_checked": [],
    },
    "findings": [_FINDING],
    "gone": [],
    "canaries": [
        {
            "queue": "orders",
            "api": "https://api-1:8080",
            "sent_at": "2026-01-31T12:00:00Z",
            "ending": "out",
            "took_s": 0.118,
            "on_way_since": None,
        }
    ],
}


@router.get(
    "/v1/doctor",
    summary="What the watch has found",
    dependencies=[Depends(require(Scope.RUNS_READ))],
    responses=answers("The last look", WatchReport, _REPORT, 503),
)
def show_doctor(request: Request) -> Response:
    """What `veltrix doctor --watch` saw last, the worst first, and what went lately.

    `look` is null when nobody has ever watched; not `is_watched`: nobody does now, and what is
    told may be old. A finding with `accepted` is lived with.
    """
    with open_autocommit(services_of(request).engine) as tx:
        return json_answer(read_report(tx))
