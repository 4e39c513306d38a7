"""The JSON form of what authors' code makes: what msgspec writes, and what it leaves to us."""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import GeneratorType
from typing import Any

import msgspec

_KNOWN_TO_PYDANTIC = ("ipaddress", "pathlib", "pydantic", "pydantic_core")  # modules of types
_IN_WORDS = {None: "null", True: "true", False: "false"}  # as keys: json writes them so
_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})


def other(value: Any) -> Any:
    """What to write for a value that msgspec does not know. Raises TypeError."""
    dump = getattr(type(value), "model_dump", None)
    if dump is not None:
        return dump(value, mode="json")
    if value is None or isinstance(value, bool):
        return _IN_WORDS[value]
    for base, plain in _SUBCLASSED:
        if isinstance(value, base):
            return plain(value)
    if type(value).__module__.partition(".")[0] in _KNOWN_TO_PYDANTIC:
        from pydantic_core import to_jsonable_python  # loaded by whoever made the value

        return to_jsonable_python(value)
    raise TypeError(_refusal(value))


# What msgspec knows, but no subclass of it: as the base class has it, whatever the subclass says.
_SUBCLASSED: list[tuple[type, Callable[[Any], Any]]] = [
    (str, str.__str__),
    (int, int.__index__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (Decimal, Decimal.__str__),
    (deque, list),
]


def _refusal(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, tuple | list | dict | set | frozenset):
        return f"a key of a dict is a {kind}; make it a str, int, date or the like"
    if isinstance(value, Awaitable):
        name = getattr(getattr(value, "step", None), "name", None)
        what = f"step {name!r}" if name else f"a {kind}"
        return f"{what} was called but not awaited: write `await` before it"
    if isinstance(value, GeneratorType) or hasattr(type(value), "__anext__"):
        return f"{kind} has no JSON form; return a list of what it gives"
    return f"{kind} has no JSON form; make it a dict, a dataclass, a struct or a pydantic model"


write = msgspec.json.Encoder(enc_hook=other).encode  # dicts and sets in the order they have


def parts_of(value: Any) -> Iterable[Any]:
    """The values that a value holds, one level down; nothing of a scalar."""
    kind = type(value)
    if kind in _SCALARS:
        return ()
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset | deque):
        return value
    names = field_names(value)
    if names is not None:
        return [getattr(value, name) for name in names if hasattr(value, name)]
    return ()


def field_names(value: Any) -> Iterable[str] | None:
    """Of a struct, a dataclass or an attrs class; None: it is none."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if is_dataclass(kind):
        return [one.name for one in fields(kind)]
    found = getattr(kind, "__attrs_attrs__", None)
    return None if found is None else [one.name for one in found]


def has_non_finite(value: Any) -> bool:
    """NaN or infinity is somewhere in it, which msgspec would write as null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if hasattr(type(value), "model_dump"):
        return has_non_finite(other(value))
    return any(map(has_non_finite, parts_of(value)))


# ---- one form of equal values: what digests are made of


def write_ordered(value: Any) -> bytes:
    """JSON in an order that follows from the values alone: dicts by key, sets by what they hold.

    Raises what `write` raises: TypeError, ValueError, OverflowError, RecursionError.
    """
    try:
        written = _write_ordered(value)
    except TypeError:  # a key that is no text, or members of a set that cannot be compared
        return _write_ordered(_ordered(value))
    # Sets in a set are compared as subsets, so sorting leaves them as they were. What is written
    # is a list of arguments in a list: the first two brackets say nothing.
    if written.find(b"[[", 1) > 0 and _has_set_in_set(value):
        return _write_ordered(_ordered(value))
    return written


def _other_ordered(value: Any) -> Any:
    """Models write their sets as lists, in the order of this process."""
    if hasattr(type(value), "model_dump") and any(map(_has_set, _model_fields(value).values())):
        return _ordered(value)
    return other(value)


_write_ordered = msgspec.json.Encoder(enc_hook=_other_ordered, order="deterministic").encode


def _inside(value: Any) -> Iterable[Any]:
    is_model = hasattr(type(value), "model_dump")
    return _model_fields(value).values() if is_model else parts_of(value)


def _model_fields(value: Any) -> dict[str, Any]:
    more = getattr(value, "__pydantic_extra__", None) or {}
    return getattr(value, "__dict__", {}) | more


def _has_set(value: Any) -> bool:
    return isinstance(value, set | frozenset) or any(map(_has_set, _inside(value)))


def _has_set_in_set(value: Any) -> bool:
    if isinstance(value, set | frozenset):
        return any(map(_has_set, value))
    return any(map(_has_set_in_set, _inside(value)))


def _ordered(value: Any) -> Any:
    if type(value) in _SCALARS:
        return value
    if isinstance(value, dict):
        return {_key(key): _ordered(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_ordered(item) for item in value), key=_write_ordered)
    if isinstance(value, list | tuple | deque):
        return [_ordered(item) for item in value]
    if hasattr(type(value), "model_dump"):
        return {name: _ordered(item) for name, item in _model_fields(value).items()}
    names = field_names(value)
    if names is not None:
        return {name: _ordered(getattr(value, name)) for name in names if hasattr(value, name)}
    return value


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    (text,) = msgspec.json.decode(write({key: None}))
    return str(text)
