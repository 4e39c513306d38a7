"""What a caller named that is nowhere, in words: what he may have meant, and what there is."""

import difflib
import re
from collections.abc import Sequence

import msgspec
from msgspec import inspect

_SHOWN_CHARS = 100
_UNKNOWN = re.compile(
    r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<at>[^`]*)`)?", re.DOTALL
)


def nowhere(kind: str, name: str, known: Sequence[str]) -> str:
    """That no `kind` has this name; did the caller mean another? And which there are."""
    near = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name[:_SHOWN_CHARS].lower(), list(near), n=1)
    meant = f"; did you mean {near[close[0]]}?" if close else "."
    are = "are" if len(known) > 1 else "is"
    return (
        f"no {kind} is called {name[:_SHOWN_CHARS]!r} here{meant} There {are}"
        f" {listed(known) or 'none'}."
    )


def misfit(error: msgspec.ValidationError, type_: type) -> str:
    """Why a body is not of this type; of a field that is nowhere, which fields there are."""
    text = str(error)
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is None:
        return f"the body does not fit: {text}"
    at = unknown["at"] or ""
    where = f"the body does not fit at ${at}" if at else "the body does not fit"
    return f"{where}: {nowhere('field', unknown['name'], _fields_at(type_, at))}"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def _fields_at(type_: type, at: str) -> list[str]:
    """The names of the fields of the object at `.a.b` in a value of this type."""
    fields = _fields_of(inspect.type_info(type_))
    for part in at.split(".")[1:]:
        fields = _fields_of(fields[part]) if part in fields else {}
    return list(fields)


def _fields_of(type_: inspect.Type) -> dict[str, inspect.Type]:
    """By name, of an object or of one that may be missing."""
    match type_:
        case inspect.UnionType():
            return {n: t for one in type_.types for n, t in _fields_of(one).items()}
        case inspect.StructType():
            return {field.encode_name: field.type for field in type_.fields}
    return {}
