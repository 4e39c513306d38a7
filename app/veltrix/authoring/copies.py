"""What a step is given: copies of its arguments, so that it cannot change them for the workflow.

After a crash a finished step is not run again. What it had changed in an object of the workflow
would then be as it was before, and everything after it would go another way.
"""

from collections import deque
from copy import copy, deepcopy
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import force_setattr

from veltrix.authoring.json_form import field_names

_FIXED = frozenset(
    {
        type(None), str, int, float, bool, bytes, complex, range,
        Decimal, UUID, datetime, date, time, timedelta, timezone,
    }
)  # fmt: skip
# Subclasses of what nobody can change, and what deepcopy itself gives back as it is.
_ALSO_FIXED = (
    str, int, float, bytes, Enum, date, time, UUID, Decimal,
    type, FunctionType, BuiltinFunctionType, ModuleType,
)  # fmt: skip
_HEAP_TYPE = 1 << 9  # a class of Python code
_OPEN = ("__del__", "__exit__", "__aexit__", "close")  # of objects that stand for something open
_OF_MODELS = ("__pydantic_extra__", "__pydantic_private__")
_PARTS_MAX = 100_000

Call = tuple[tuple[Any, ...], dict[str, Any]]


def given(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Call:
    """These arguments as a step may have them: nothing that it changes is seen by the workflow.

    Containers, data classes and objects that hold only data are copied. Any other object, like a
    client with its connections, is given as it is.
    """
    if are_fixed(arguments, keywords):
        return arguments, keywords
    try:
        return tuple(map(_copied, arguments)), {k: _copied(v) for k, v in keywords.items()}
    except RecursionError:  # something holds itself, like a child that knows its parent
        return _copied_whole((arguments, keywords))


def _copied_whole(call: Call) -> Call:
    try:
        return deepcopy(call) if _is_data(call, set()) else call
    except Exception:  # noqa: BLE001 - it is too deep, or does not want to be copied
        return call


def are_fixed(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Nobody can change any of them: `given` would give just these."""
    for value in arguments:  # a generator takes twice as long, for every step
        if type(value) not in _FIXED:
            return False
    for value in keywords.values():  # noqa: SIM110 - as above
        if type(value) not in _FIXED:
            return False
    return True


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind in _FIXED:
        return value
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is list:
        return [_copied(item) for item in value]
    if kind is tuple:
        return tuple([_copied(item) for item in value])
    if kind is set:
        return set(value)  # what is in a set cannot be changed
    if kind is frozenset or isinstance(value, _ALSO_FIXED):
        return value
    try:
        if _is_declared(value):
            return _copied_object(value)
        return deepcopy(value) if _is_data(value, set()) else value
    except RecursionError:
        raise  # at once: each part of it would come here again
    except Exception:  # noqa: BLE001 - the object's own code: it does not want to be copied
        return value


def _is_declared(value: Any) -> bool:
    """It says which fields it has: only those are copied, each as it can be."""
    return field_names(value) is not None or hasattr(type(value), "model_dump")


def _copied_object(value: Any) -> Any:
    changed = [
        (name, made)
        for name, part in _attributes(value).items()
        if (made := _copied(part)) is not part
    ]
    if not changed and _is_frozen(value):
        return value
    new = copy(value)
    put = force_setattr if isinstance(value, msgspec.Struct) else object.__setattr__
    for name, made in changed:
        put(new, name, made)
    return new


def _attributes(value: Any) -> dict[str, Any]:
    names = (*(field_names(value) or ()), *_OF_MODELS)
    found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})


def _is_frozen(value: Any) -> bool:
    if isinstance(value, msgspec.Struct):
        return value.__struct_config__.frozen
    if hasattr(type(value), "__dataclass_params__"):
        return bool(value.__dataclass_params__.frozen)
    return bool(getattr(value, "model_config", {}).get("frozen"))


def _is_data(value: Any, seen: set[int]) -> bool:
    """It and all that it holds are values, and nothing that exists once, like a connection."""
    kind = type(value)
    if kind in _FIXED or isinstance(value, _ALSO_FIXED) or kind is bytearray or id(value) in seen:
        return True
    seen.add(id(value))
    parts: list[Any] = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, dict):
        parts += [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts += value
    elif _is_declared(value):
        parts += _attributes(value).values()
    elif not _is_plain(kind):
        return False
    return len(seen) + len(parts) < _PARTS_MAX and all(_is_data(part, seen) for part in parts)


def _is_plain(kind: Any) -> bool:
    """Its objects are made by Python code alone, hold nothing open, and are copied as any are."""
    return (
        all(one is object or one.__flags__ & _HEAP_TYPE for one in kind.__mro__)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and not any(hasattr(kind, name) for name in _OPEN)
    )
