"""The OpenAPI document: what FastAPI finds, and by hand what it cannot see.

`docs/openapi.json` holds it; `app/api/openapi_docs.py` writes it and a test says it is current.
"""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.events import EventDocument
from app.api.problems import MEDIA_TYPE
from app.api.receipts import BatchAnswer, ReceiptItem
from app.api.starts import DELAY_S_MAX
from app.domain.cloudevents import BATCH_TYPE, STRUCTURED_TYPE
from app.domain.receipts import Receipt

VERSION = "1"
_REF = "#/components/schemas/{name}"

_EVENT = {
    "specversion": "1.0",
    "id": "2013-1-1-UA-1545-EWR",
    "source": "/flights/nyc",
    "type": "flight.landed",
    "time": "2013-01-01T08:30:00Z",
    "datacontenttype": "application/json",
    "data": {"carrier": "UA", "flight": 1545, "arr_delay": 11},
}
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
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "The same key and request gets the same answer, and does nothing again",
}
# An event is its own key; a preview changes nothing.
_WITHOUT_KEY = {"/v1/events", "/v1/replays/preview"}
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
    "description": "An RFC 9457 problem. `type` is stable: urn:veltrix:problem:<name>.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "attribute": {"type": "string", "description": "What of the event is wrong"},
        "index": {"type": "integer", "description": "In a batch: the item's place, from 0"},
        "id": {"type": ["string", "null"]},
        "source": {"type": ["string", "null"]},
        "event": {"type": "string", "description": "Of a conflict: the event in the ledger"},
    },
}


def document_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the whole API."""
    document = get_openapi(
        title="Veltrix",
        version=VERSION,
        summary="Events in, workflows out, every event accounted for.",
        routes=app.routes,
    )
    _, schemas = msgspec.json.schema_components(
        [Receipt, ReceiptItem, BatchAnswer, EventDocument], ref_template=_REF
    )
    schemas["BatchAnswer"]["properties"]["items"] = {
        "type": "array",
        "items": {"anyOf": [_ref("ReceiptItem"), _ref("Problem")]},
    }
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(
        schemas, CloudEvent=_CLOUDEVENT_SCHEMA, Problem=_PROBLEM_SCHEMA, StartBody=_START_SCHEMA
    )
    for name in ("HTTPValidationError", "ValidationError"):  # ours are problems
        components["schemas"].pop(name, None)
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key; not asked for on a loopback address",
        }
    }
    document["security"] = [{"key": []}]
    paths = document["paths"]
    paths["/v1/events"]["post"] = _post_events()
    paths["/v1/events"]["get"]["responses"]["200"] = _json("The event", "EventDocument")
    start = paths["/v1/workflows/{name}/runs"]["post"]
    start |= _start_workflow()
    for name, path in paths.items():
        if "post" in path and name not in _WITHOUT_KEY:
            path["post"].setdefault("parameters", []).append(_KEY)
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _problem("A problem")
    return document


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
                STRUCTURED_TYPE: {"schema": _ref("CloudEvent"), "example": _EVENT},
                BATCH_TYPE: {
                    "schema": {"type": "array", "items": _ref("CloudEvent")},
                    "example": [_EVENT],
                },
                "*/*": {"schema": {"description": "Binary mode: the event's data as it is"}},
            },
        },
        "responses": {
            "202": {
                "description": "All were taken: a receipt, or for a batch an item for each event",
                "headers": {"Location": {"schema": {"type": "string"}}},
                "content": {
                    "application/json": {
                        "schema": {"anyOf": [_ref("Receipt"), _ref("BatchAnswer")]},
                        "example": _RECEIPT,
                    }
                },
            },
            "207": _json("Some of a batch were taken; each item says which", "BatchAnswer"),
            "400": _refused("The event is wrong; of a batch every one is, each item says why"),
            "403": _problem("The key may not send events, or not of this source or type"),
            "409": _problem("The identity was accepted before with other content"),
            "413": _problem("An event or the batch is over its limit; nothing was taken"),
            "429": _problem("The key has called too often; try again after Retry-After"),
            "503": _problem("Nothing was taken; try again after Retry-After"),
        },
    }


def _start_workflow() -> dict[str, Any]:
    body = {
        "content": {
            "application/json": {
                "schema": _ref("StartBody"),
                "examples": {
                    "one": {"value": {"input": {"order": 17}, "delay_s": 60}},
                    "many": {"value": {"inputs": [{"order": 17}, {"order": 18}]}},
                },
            }
        }
    }
    responses = {
        "202": {
            "description": "Started: a receipt for `input`; for `inputs` an item for each",
            "headers": {"Location": {"schema": {"type": "string"}}},
            "content": {
                "application/json": {"schema": {"anyOf": [_ref("Receipt"), _ref("BatchAnswer")]}}
            },
        },
        "207": _json("Some of `inputs` were started; each item says which", "BatchAnswer"),
        "400": _refused("The body is not JSON, or no input fits the workflow's schema"),
        "404": _problem("No workflow has this name"),
        "409": _problem("The first request with this Idempotency-Key still runs"),
    }
    return {"requestBody": body, "responses": responses}


def _refused(description: str) -> dict[str, Any]:
    """A problem, or for a batch of which nothing was taken an item for each."""
    told = _problem(description)
    told["content"] |= _json("", "BatchAnswer")["content"]
    return told


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _json(description: str, name: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": _ref("Problem")}}}
