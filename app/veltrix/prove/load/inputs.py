"""An input for somebody's workflow: the smallest that its JSON schema allows."""

from typing import Any

_DEPTH_MAX = 20
_TEXTS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "date-time-local": "2026-01-31T12:00:00",
    "iso-date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "partial-time": "12:00:00",
    "iso-time": "12:00:00Z",
    "duration": "PT1S",
    "decimal": "1",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "01990f2e-7c4b-7a10-9d3e-5b0c3c5f1a2b",
    "email": "prove@example.com",
    "uri": "https://example.com/",
}


def smallest_input(schema: Any) -> Any:
    """What fits the schema, as far as types, members, bounds and named values tell.

    An object without members where there is no schema. Patterns and conditions are not followed, so
    the caller must check what comes of them.
    """
    return {} if schema in (None, True, {}) else _value(schema, schema, 0)


def _value(schema: Any, root: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEPTH_MAX:
        return None
    if "$ref" in schema:
        return _value(_named(root, str(schema["$ref"])), root, depth + 1)
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    for name in ("enum", "examples"):
        if schema.get(name):
            return schema[name][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return _value(schema[name][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else None)
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            members = schema.get("properties", {})
            names = schema.get("required", ())
            return {name: _value(members.get(name), root, depth + 1) for name in names}
        case "array":
            first = [_value(item, root, depth + 1) for item in schema.get("prefixItems", ())]
            rest = max(0, schema.get("minItems", 0) - len(first))
            return first + [_value(schema.get("items"), root, depth + 1)] * rest
        case "string" if "contentEncoding" in schema:
            return "eA=="
        case "string":
            return _TEXTS.get(schema.get("format", ""), "x" * max(1, schema.get("minLength", 1)))
        case "integer" | "number":
            return max(schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return False
    return None


def _named(root: Any, reference: str) -> Any:
    """The part of the schema that `#/$defs/Name` means; None for a reference elsewhere."""
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part) if isinstance(found, dict) else None
    return found
