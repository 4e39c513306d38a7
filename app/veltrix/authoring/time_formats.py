"""Formats of moments in a JSON Schema that msgspec has made, which names them only with a zone.

The formats of JSON Schema demand a zone. What may have one or not is `iso-date-time` and `iso-time`
here.
"""

from collections.abc import Iterator
from typing import Any

from msgspec import inspect as mi

Schema = dict[str, Any]

READ_BY_MSGSPEC = "read by msgspec"  # the `$comment` of such a schema

_RECORDS = (mi.StructType, mi.DataclassType, mi.TypedDictType, mi.NamedTupleType)


def name_formats(type_: Any, schema: Schema) -> None:
    """Write `format` wherever the type takes a datetime or a time; decimals may be numbers."""
    _Names(schema.get("$defs", {})).into(mi.type_info(type_), schema)


class _Names:
    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._seen: set[str] = set()

    def into(self, kind: mi.Type, schema: Schema) -> None:
        while isinstance(kind, mi.Metadata):
            kind = kind.type
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name in self._seen or name not in self._definitions:
                return
            self._seen.add(name)
            schema = self._definitions[name]
        if isinstance(kind, mi.DateTimeType):
            schema.setdefault("format", "iso-date-time" if kind.tz is None else "date-time-local")
        elif isinstance(kind, mi.TimeType):
            schema.setdefault("format", "iso-time")
        elif isinstance(kind, mi.DecimalType):
            schema["type"] = ["string", "number"]
        for part, its in _parts(kind, schema):
            if isinstance(its, dict):
                self.into(part, its)


def _parts(kind: mi.Type, schema: Schema) -> Iterator[tuple[mi.Type, Any]]:
    if isinstance(kind, mi.CollectionType):
        yield kind.item_type, schema.get("items")
    elif isinstance(kind, mi.TupleType):
        yield from zip(kind.item_types, schema.get("prefixItems", ()), strict=False)
    elif isinstance(kind, mi.DictType):
        yield kind.value_type, schema.get("additionalProperties")
    elif isinstance(kind, mi.UnionType):
        # Structs stand after all others, and None last.
        structs = [t for t in kind.types if _is_struct(t)]
        others = [t for t in kind.types if not _is_struct(t) and not isinstance(t, mi.NoneType)]
        options = [one for option in schema["anyOf"] for one in option.get("anyOf", [option])]
        yield from zip(others + structs, options, strict=False)
    elif isinstance(kind, _RECORDS):
        if "prefixItems" in schema:
            items = schema["prefixItems"][-len(kind.fields) or None :]
            yield from zip((f.type for f in kind.fields), items, strict=False)
        else:
            named = schema.get("properties", {})
            yield from ((f.type, named.get(f.encode_name)) for f in kind.fields)


def _is_struct(kind: mi.Type) -> bool:
    while isinstance(kind, mi.Metadata):
        kind = kind.type
    return isinstance(kind, mi.StructType) and not kind.array_like
