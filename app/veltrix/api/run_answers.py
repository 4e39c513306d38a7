"""A run as it is answered, whoever asked: read, started and waited for."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine
from starlette.responses import Response

from veltrix.operations.replays.plan import tag_text
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.read_story import RunStory, redact, story
from veltrix.store.transactions import transaction
from veltrix.web.answers import json_answer
from veltrix.web.auth import Author, may_see_payloads
from veltrix.web.not_done import no_such_run

RUN_ID = "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b"
RUN: dict[str, Any] = {
    "id": RUN_ID,
    "event": "01990f2e-7c4b-7a10-9d3e-5b0c3c000000",
    "workflow": "fulfil_order",
    "queue": "orders",
    "state": "succeeded",
    "key": "order-42",
    "generation": 0,
    "attempt": 1,
    "claims": 1,
    "code_version": "3f2a9c",
    "reason": None,
    "failed_step": None,
    "fingerprint": None,
    "started_at": "2026-01-31T12:00:00.000Z",
    "due_at": None,
    "claimed_at": "2026-01-31T12:00:00.002Z",
    "settled_at": "2026-01-31T12:00:00.004Z",
    "cancel_requested_at": None,
    "created_by": None,
    "worker_id": "veltrix@host/1",
    "delivery_id": RUN_ID,
    "origin_run_id": None,
    "parent_run_id": None,
    "alone": False,
    "crashes": 0,
    "priority": 0,
    "payload_bytes": 31,
    "archived_at": None,
}
STORY: dict[str, Any] = {
    **RUN,
    "cloudevent": {
        "source": "/shop",
        "id": "order-42-placed",
        "type": "shop.order.placed",
        "subject": "order-42",
        "accepted_at": "2026-01-31T12:00:00.000Z",
    },
    "outcome": {"payment": "p-7"},
    "steps": [
        {
            "generation": 0,
            "position": "0",
            "kind": "step",
            "name": "charge",
            "output": "p-7",
            "output_bytes": 5,
            "error": None,
            "attempts": 1,
            "recorded_at": "2026-01-31T12:00:00.004Z",
            "began_at": "2026-01-31T12:00:00.003Z",
            "took_ms": 1,
            "arguments": [["order-42"], {}],
            "arguments_cut": None,
        }
    ],
    "failed_attempts": [],
    "actions": [],
    "edited_as": [],
    "redacted": False,
}


def read_story(engine: Engine, run_id: str) -> RunStory:
    """The run and all that is known of it. Raises a 404 Problem if there is no such run."""
    id_ = canonical(run_id)
    if id_ is not None:
        with transaction(engine, snapshot=True) as tx:
            run = story(tx, id_)
        if run is not None:
            return run
    raise no_such_run(run_id)


def answer_of(run: RunStory, author: Author, headers: Mapping[str, str] | None = None) -> Response:
    """The run as this author may see it, with its ETag."""
    if not may_see_payloads(author):
        redact(run)
    tag = tag_text((run.generation, run.state, len(run.edited_as)))
    sent = {"ETag": tag, **(headers or {})}
    return json_answer(run, headers=sent)
