"""What OpenAPI says of answers and bodies that msgspec encodes and decodes."""

from typing import Any

import msgspec

from app.api.problems import MEDIA_TYPE

_PROBLEMS = {
    400: "A parameter or the body cannot be understood",
    404: "There is no such thing",
    409: "Its state does not allow this",
    412: "The run is not as its ETag says",
    413: "The body is too large",
    422: "The Idempotency-Key was used for another request",
    428: "If-Match is missing",
    429: "Too many requests wait for outcomes",
    503: "The database cannot be reached now",
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:veltrix:problem:not-found"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def content(type_: Any, example: Any) -> dict[str, Any]:
    """JSON content of a msgspec type, with its schema (nothing is referenced) and an example."""
    schema = msgspec.json.schema(type_)
    shown = {"schema": _inlined(schema, schema.get("$defs", {})), "example": example}
    return {"application/json": shown}


def answers(
    description: str, type_: Any, example: Any, *problems: int, status: int = 200
) -> dict[int | str, Any]:
    """The `responses` of a route that answers `type_`, or one of these problems."""
    told: dict[int | str, Any] = {
        status: {"description": description, "content": content(type_, example)}
    }
    for problem in problems:
        headers = (
            {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
            if problem in {429, 503}
            else {}
        )
        told[problem] = {
            "description": _PROBLEMS[problem],
            "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
            "headers": headers,
        }
    return told


def _inlined(schema: Any, types: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, types) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(types[schema["$ref"].rpartition("/")[2]], types)
    return {name: _inlined(value, types) for name, value in schema.items() if name != "$defs"}
