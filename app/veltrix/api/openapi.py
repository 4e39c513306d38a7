"""The OpenAPI document: what FastAPI finds, and by hand what it cannot see.

`docs/openapi.json` holds it, `python -m veltrix.docs` writes it, a test says it is current.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from veltrix.api.documented import components, content, problem_answer, ref, with_examples
from veltrix.api.receipts import BatchAnswer, ReceiptItem, ReceiptOrBatch
from veltrix.api.run_answers import STORY
from veltrix.api.starts import DELAY_S_MAX
from veltrix.domain.events import BATCH_TYPE, STRUCTURED_TYPE
from veltrix.operations.runs.read_story import RunStory
from veltrix.web.problems import MEDIA_TYPE

VERSION = "1"
_SERVERS: list[dict[str, Any]] = [
    {"url": "/", "description": "The api that serves this document"},
    {
        "url": "http://{host}:{port}",
        "description": "Another; behind a proxy, its address",
        "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "8080"}},
    },
]
_TAGS = [
    {"name": "events", "description": "What producers send, and what was accepted"},
    {"name": "workflows", "description": "What there is to start, and starting it by name"},
    {"name": "runs", "description": "What became of it: state, steps, outcome"},
    {"name": "failures", "description": "What failed in the same way, and what people decided"},
    {"name": "replays", "description": "Failed runs planned and run again"},
    {"name": "dead letters", "description": "Messages that reached nobody's code"},
    {"name": "workers", "description": "Who runs what"},
    {"name": "balance", "description": "Accepted against settled and open"},
    {"name": "doctor", "description": "What can lose, repeat, stall or hide work"},
    {"name": "retention", "description": "How long history is kept, and what may leave"},
    {"name": "audit", "description": "Who did what, and why"},
    {"name": "health", "description": "For probes and Prometheus; needs no key"},
]

_EVENT = {
    "specversion": "1.0",
    "id": "2013-1-1-UA-1545-EWR",
    "source": "/flights/nyc",
    "type": "flight.landed",
    "time": "2013-01-01T08:30:00Z",
    "datacontenttype": "application/json",
    "data": {"carrier": "UA", "flight": 1545, "arr_delay": 11},
}
_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Of one: where it is"}}
_RUN_ID = "019a0000-0000-7000-8000-0000001c9f2e"
_EVENT_ID = "019a0000-0000-7000-8000-000000000000"
_RECEIPT = {
    "id": _EVENT["id"],
    "source": _EVENT["source"],
    "event": _EVENT_ID,
    "runs": [{"id": _RUN_ID, "workflow": "book_flight"}],
    "duplicate": False,
}
_CLOUDEVENT_SCHEMA = {
    "type": "object",
    "description": "A CloudEvents 1.0 event in the JSON format. Other members are extensions: their"
    " names are letters a to z and digits, their values strings, numbers or booleans.",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1, "description": "At most 1,024 bytes"},
        "source": {"type": "string", "minLength": 1, "description": "At most 1,024 bytes"},
        "type": {"type": "string", "minLength": 1, "description": "At most 1,024 bytes"},
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string"},
        "dataschema": {"type": "string", "format": "uri"},
        "traceparent": {"type": "string"},
        "data": {"description": "Any JSON value, kept as sent"},
        "data_base64": {"type": "string", "contentEncoding": "base64"},
    },
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_KEY = "IdempotencyKey"
_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "The same key and request gets the same answer, and does nothing again",
    "example": "order-42-refund",
}
# An event is its own key; a preview changes nothing.
_WITHOUT_KEY = {"/v1/events", "/v1/replays/preview", "/v1/retention/preview"}
_START_SCHEMA = {
    "type": "object",
    "description": "`input` starts one run, `inputs` one for each element. Each is checked against"
    " the workflow's input schema.",
    "properties": {
        "input": {"description": "Any JSON value, kept as sent"},
        "inputs": {"type": "array", "items": {}},
        "start_at": {"type": "string", "format": "date-time"},
        "delay_s": {"type": "number", "minimum": 0, "maximum": DELAY_S_MAX},
    },
    "additionalProperties": False,
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "An RFC 9457 problem. `type` is stable: urn:veltrix:problem:<name>. It may have"
    " further members that say more.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "attribute": {"type": "string", "description": "What of the event is wrong"},
        "index": {"type": "integer", "description": "In a batch: the item's place, from 0"},
        "id": {"type": ["string", "null"], "description": "In a batch: the item's own id"},
        "source": {"type": ["string", "null"], "description": "In a batch: the item's source"},
        "event": {
            "type": "string",
            "format": "uuid",
            "description": "Of a conflict: the event in the ledger",
        },
        "parameter": {"type": "string", "description": "Of a query: which one is wrong"},
    },
    "additionalProperties": True,
}
_BY_HAND = {
    "CloudEvent": _CLOUDEVENT_SCHEMA,
    # Said in a way that openapi-python-client does not take for a list: beside another kind of body
    # it would make code that fails for both. So it has the single event, and leaves this out.
    "CloudEventBatch": {"type": "array", "allOf": [{"items": ref("CloudEvent")}]},
    "Problem": _PROBLEM_SCHEMA,
    "StartBody": _START_SCHEMA,
    "BatchItem": {"anyOf": [ref("ReceiptItem"), ref("Problem")]},
    "ProblemOrBatch": {"anyOf": [ref("Problem"), ref("BatchAnswer")]},
}


def document_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the whole API. It takes a while: make it once."""
    document = get_openapi(
        title="Veltrix",
        version=VERSION,
        summary="Events in, workflows out, every event accounted for.",
        routes=app.routes,
        servers=_SERVERS,
        tags=_TAGS,
    )
    paths = document["paths"]
    paths["/v1/events"]["post"] = _post_events()
    paths["/v1/workflows/{name}/runs"]["post"] |= _start_workflow()
    for name, path in paths.items():
        if "post" in path and name not in _WITHOUT_KEY:
            key = {"$ref": f"#/components/parameters/{_KEY}"}
            path["post"].setdefault("parameters", []).append(key)
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            operation["responses"]["default"] = _problem("Another problem")
            if not name.startswith("/v1/"):
                operation["security"] = []
    document["components"] = {
        "schemas": _schemas(document),
        "parameters": {_KEY: _KEY_PARAMETER},
        "securitySchemes": {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key; not asked for on a loopback address",
            }
        },
    }
    document["security"] = [{"key": []}]
    told: dict[str, Any] = with_examples(document)
    return told


def _schemas(document: dict[str, Any]) -> dict[str, Any]:
    """All components that the document refers to."""
    found: dict[str, Any] = document.get("components", {}).get("schemas", {})
    ours = components(ReceiptItem) | _BY_HAND
    ours["BatchAnswer"]["properties"]["items"] = {"type": "array", "items": ref("BatchItem")}
    # FastAPI's own errors are nowhere answered: ours are problems.
    told = {n: s for n, s in found.items() if not n.endswith("ValidationError")}
    for name in told.keys() & ours.keys():
        if _shape(told[name]) != _shape(ours[name]):
            raise TypeError(f"two classes are called {name}: no client could tell them apart")
    return dict(sorted((told | ours).items()))


def _shape(schema: dict[str, Any]) -> tuple[Any, ...]:
    """What two descriptions of one class have in common, whoever made them."""
    return sorted(schema.get("enum", ())), sorted(schema.get("properties", ()))


def _post_events() -> dict[str, Any]:
    return {
        "tags": ["events"],
        "operationId": "post_events",
        "summary": "Send one event, or a batch",
        "description": "One event in structured mode, a batch in batched mode, or an event in"
        " binary mode: any other content type, with the attributes in `ce-*` headers. 202 means the"
        " events and the runs they start are committed. The same `source` and `id` is the same"
        " event: sent again it gets its first receipt, with `duplicate: true`.",
        "requestBody": {
            "required": True,
            "content": {
                STRUCTURED_TYPE: {"schema": ref("CloudEvent"), "example": _EVENT},
                BATCH_TYPE: {"schema": ref("CloudEventBatch"), "example": [_EVENT]},
                "*/*": {"schema": {"description": "Binary mode: the event's data as it is"}},
            },
        },
        "responses": {
            "202": {
                "description": "All were taken: a receipt, or for a batch an item for each event",
                "headers": _LOCATION,
                "content": content(ReceiptOrBatch, _RECEIPT),
            },
            "207": _batch("Some of a batch were taken; each item says which"),
            "400": _refused(
                "The event is wrong; of a batch every one is, each item says why", "bad-event"
            ),
            "403": problem_answer(
                403, "The key may not send events, or not of this source or type"
            ),
            "409": problem_answer(
                409, "The identity was accepted before with other content", "event-conflict"
            ),
            "413": problem_answer(413, "An event or the batch is too large; nothing was taken"),
            "429": problem_answer(429, "The key has called too often; try again after Retry-After"),
            "503": problem_answer(503, "Nothing was taken; try again after Retry-After"),
        },
    }


def _start_workflow() -> dict[str, Any]:
    body = {
        "content": {
            "application/json": {
                "schema": ref("StartBody"),
                "examples": {
                    "one": {"value": {"input": {"order": 17}, "delay_s": 60}},
                    "many": {"value": {"inputs": [{"order": 17}, {"order": 18}]}},
                },
            }
        }
    }
    responses = {
        "200": {
            "description": "With `wait_s`: the run is settled, as `GET /v1/runs/{run_id}` tells it",
            "headers": _LOCATION,
            "content": content(RunStory, STORY),
        },
        "202": {
            "description": "Started: a receipt for `input`; for `inputs` an item for each",
            "headers": _LOCATION,
            "content": content(ReceiptOrBatch, _RECEIPT),
        },
        "207": _batch("Some of `inputs` were started; each item says which"),
        "400": _refused("The body is not JSON, or no input fits the workflow", "invalid-body"),
        "404": problem_answer(404, "No workflow has this name", "not-found"),
        "409": problem_answer(
            409, "The first request with this Idempotency-Key still runs", "still-running"
        ),
        "413": problem_answer(413, "The body, or an input, is over its limit; nothing was started"),
        "422": problem_answer(422),
        "429": problem_answer(429, "Too many requests wait for outcomes; nothing was started"),
        "503": problem_answer(503, "Nothing was started; try again after Retry-After"),
    }
    return {"requestBody": body, "responses": responses}


def _batch(description: str) -> dict[str, Any]:
    taken = _RECEIPT | {"status": 202}
    refused = {
        "type": "urn:veltrix:problem:bad-event",
        "title": "Bad Request",
        "status": 400,
        "detail": "type is missing",
        "attribute": "type",
        "index": 1,
        "id": "2",
        "source": _EVENT["source"],
    }
    told = {"items": [taken, refused], "accepted": 1, "duplicates": 0, "refused": 1}
    return {"description": description, "content": content(BatchAnswer, told)}


def _refused(description: str, slug: str) -> dict[str, Any]:
    """A problem, or for a batch of which nothing was taken an item for each."""
    told = problem_answer(400, description, slug)
    items = _batch("")["content"]["application/json"]
    # Generators look at one of the two, and would read a problem as what they find there.
    told["content"]["application/json"] = items | {"schema": ref("ProblemOrBatch")}
    return told


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": ref("Problem")}}}
