"""What OpenAPI says of answers and bodies that msgspec encodes and decodes.

Each type is a component of its own name: what generators make classes of.
"""

from collections.abc import Iterable
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import inspect

from veltrix.web.problems import MEDIA_TYPE, TYPE_PREFIX

_REF = "#/components/schemas/{name}"
_PROBLEMS = {
    400: ("invalid-request", "A parameter or the body cannot be understood"),
    403: ("forbidden", "The key lacks a scope"),
    404: ("not-found", "There is no such thing"),
    409: ("wrong-state", "Its state does not allow this"),
    412: ("precondition-failed", "The run is not as its ETag says"),
    413: ("too-large", "The body is too large"),
    422: ("idempotency-key-reused", "The Idempotency-Key was used for another request"),
    428: ("precondition-required", "If-Match is missing"),
    429: ("too-many-waiting", "Too many requests wait for outcomes"),
    503: ("unavailable", "The database cannot be reached now"),
}
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}

_told: dict[Any, None] = {}  # the types that routes tell of, in their order
_shown: list[Any] = []  # their examples: FastAPI would leave out what is null in them
_SHOWN = "x-shown"


class Either(msgspec.Struct, frozen=True):
    """One of these types, as a component of this name."""

    name: str
    types: tuple[type, ...]


def content(type_: type | Either, example: Any) -> dict[str, Any]:
    """JSON content of a msgspec type, as a component, with an example."""
    _told[type_] = None
    _shown.append(example)
    name = type_.name if isinstance(type_, Either) else type_.__name__
    return {"application/json": {"schema": ref(name), "example": {_SHOWN: len(_shown) - 1}}}


def answers(
    description: str, type_: type | Either, example: Any, *problems: int, status: int = 200
) -> dict[int | str, Any]:
    """The `responses` of a route that answers `type_`, or one of these problems."""
    told: dict[int | str, Any] = {
        status: {"description": description, "content": content(type_, example)}
    }
    return told | {problem: problem_answer(problem) for problem in problems}


def problem_answer(status: int, description: str = "", slug: str = "") -> dict[str, Any]:
    """What is told of a problem, in these words or those that fit its status everywhere."""
    usual_slug, usual = _PROBLEMS[status]
    example = {
        "type": TYPE_PREFIX + (slug or usual_slug),
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": description or usual,
    }
    told: dict[str, Any] = {
        "description": description or usual,
        "content": {MEDIA_TYPE: {"schema": ref("Problem"), "example": example}},
    }
    return told | ({"headers": _RETRY_AFTER} if status in {429, 503} else {})


def with_examples(document: Any) -> Any:
    """The document with the examples that `content` was given, as they were given."""
    if isinstance(document, list):
        return [with_examples(one) for one in document]
    if not isinstance(document, dict):
        return document
    if _SHOWN in document:
        return _shown[document[_SHOWN]]
    return {name: with_examples(value) for name, value in document.items()}


def ref(name: str) -> dict[str, str]:
    """A reference to the component of this name."""
    return {"$ref": _REF.format(name=name)}


def components(*more: type) -> dict[str, Any]:
    """The schemas of all types that routes tell of, and of `more`, by name."""
    unions = [one for one in _told if isinstance(one, Either)]
    types = [one for one in _told if not isinstance(one, Either)]
    types += [*more, *(one for union in unions for one in union.types)]
    roots, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    seen: set[str] = set()
    for type_, root in zip(inspect.multi_type_info(types), roots, strict=True):
        _mark_times(type_, root, schemas, seen)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"])
    for union in unions:
        schemas[union.name] = {"anyOf": [ref(one.__name__) for one in union.types]}
    return {name: _plain(schema) for name, schema in schemas.items()}


def _mark_times(
    type_: inspect.Type, schema: dict[str, Any], schemas: dict[str, Any], seen: set[str]
) -> None:
    """Say of each time in it that it is one: msgspec does of those only that must have a zone."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in seen:
            return
        seen.add(name)
        schema = schemas[name]
    match type_:
        case inspect.DateTimeType():
            schema["format"] = "date-time"
        case inspect.Metadata():
            _mark_times(type_.type, schema, schemas, seen)
        case inspect.CollectionType():
            _mark_times(type_.item_type, schema.get("items", {}), schemas, seen)
        case inspect.UnionType():
            for one, told in _options(type_.types, schema["anyOf"]):
                _mark_times(one, told, schemas, seen)
        case inspect.StructType():
            for field in type_.fields:
                _mark_times(field.type, schema["properties"][field.encode_name], schemas, seen)


def _options(
    types: Iterable[inspect.Type], schemas: Iterable[dict[str, Any]]
) -> Iterable[tuple[inspect.Type, dict[str, Any]]]:
    """Of a type that may be missing, or a value of any kind: each with its schema."""
    there = [one for one in types if not isinstance(one, inspect.NoneType)]
    told = [schema for schema in schemas if schema != {"type": "null"}]
    return zip(there, told, strict=True)


def _plain(schema: Any) -> Any:
    """Without choices of which one is any value at all: then it is that."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if {} in schema.get("anyOf", ()):
        schema = {name: value for name, value in schema.items() if name != "anyOf"}
    return {name: _plain(value) for name, value in schema.items()}
