"""A form for a workflow's input, made of its JSON Schema; and the input, made of the form.

A property of a plain type has a field of its own; any other is asked for as JSON, and so is an
input that is no object. What does not fit is left to the schema to say.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from veltrix.domain.json_text import json_problem

PREFIX = "in:"
WHOLE = "input"
FIELDS_MAX = 24  # a form has 32
OPTIONS_MAX = 200
_PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
_FORMATS = {"date": "date", "time": "time"}
_HOPS_MAX = 8


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A field of the form. `kind`: text, integer, number, boolean, date, time, choice or json.

    `options` are JSON texts; `default` is what the field shows at first.
    """

    name: str
    kind: str
    is_required: bool
    title: str
    about: str = ""
    default: str = ""
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name in the form."""
        return PREFIX + self.name


class NotJson(ValueError):
    """The text of a field is not JSON; the message names the field and the place."""


def fields_of(schema: dict[str, Any] | None) -> list[Field]:
    """The fields for an input; empty: it is asked for as one JSON text."""
    if schema is None:
        return []
    top = _resolved(schema, schema)
    properties = top.get("properties")
    if not isinstance(properties, dict) or not 0 < len(properties) <= FIELDS_MAX:
        return []
    needed = top.get("required")
    required = needed if isinstance(needed, list) else []
    return [_field(name, part, schema, name in required) for name, part in properties.items()]


def input_of(fields: list[Field], form: Mapping[str, str]) -> bytes:
    """The input as JSON; empty if the whole of it was asked for and left empty.

    Raises NotJson.
    """
    if not fields:
        return _checked("input", form.get(WHOLE, "")).encode()
    parts: dict[str, msgspec.Raw] = {}
    for field in fields:
        given = form.get(field.key, "").replace("\r\n", "\n")
        if given == "" and not (field.is_required and field.kind == "text"):
            continue
        parts[field.name] = msgspec.Raw(_value(field, given).encode())
    return msgspec.json.encode(parts)


def _value(field: Field, given: str) -> str:
    """The value as JSON text; a number that is none stays a text, and the schema says so."""
    if field.kind in {"json", "choice", "boolean"}:
        return _checked(field.name, given)
    if field.kind in {"integer", "number"} and _is_number(given.strip()):
        return given.strip()
    return msgspec.json.encode(given).decode()


def _checked(name: str, given: str) -> str:
    text = given.strip()
    if text and (problem := json_problem(text.encode(errors="replace"))):
        raise NotJson(f"{name} is {problem}")
    return text


def _is_number(text: str) -> bool:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _field(name: str, part: Any, schema: dict[str, Any], is_required: bool) -> Field:
    kind, options = "json", tuple[str, ...]()
    found = _resolved(part, schema) if isinstance(part, dict) else {}
    found = _without_null(found, schema)
    default = found.get("default", part.get("default") if isinstance(part, dict) else None)
    choices = found.get("enum")
    if isinstance(choices, list) and 0 < len(choices) <= OPTIONS_MAX:
        kind, options = "choice", tuple(msgspec.json.encode(one).decode() for one in choices)
    elif isinstance(found.get("type"), str):
        kind = _PLAIN.get(found["type"], "json")
        kind = _FORMATS.get(str(found.get("format")), kind) if kind == "text" else kind
    return Field(
        name=name,
        kind=kind,
        is_required=is_required,
        title=str(found.get("title") or name)[:100],
        about=str(found.get("description") or "")[:300],
        default=_default_text(kind, default),
        options=options,
    )


def _default_text(kind: str, default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, str) and kind not in {"json", "choice"}:
        return default
    return msgspec.json.encode(default).decode()


def _without_null(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Of "this or null" this, which a field that is left empty says as well."""
    for word in ("anyOf", "oneOf"):
        options = found.get(word)
        if isinstance(options, list):
            real = [one for one in options if isinstance(one, dict) and one.get("type") != "null"]
            if len(real) == 1:
                rest = {key: value for key, value in found.items() if key != word}
                return _resolved(real[0], schema) | rest
    return found


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The part, or what it refers to inside the schema."""
    for _ in range(_HOPS_MAX):
        reference = part.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return part
        target: Any = schema
        for step in reference[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            return {}
        part = target | {key: value for key, value in part.items() if key != "$ref"}
    return {}
