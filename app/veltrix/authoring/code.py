"""The code of authors: what a callable is, what it names, and which version of it this is."""

import functools
import inspect
from collections.abc import Callable, Iterator
from hashlib import blake2b
from types import CodeType
from typing import Any


def code_of(found: Any) -> tuple[str, CodeType | None, dict[str, Any]]:
    """Of any callable its label, and the code and the globals of the function behind it.

    No code: it is none of Python's, like `math.sqrt`.
    """
    function = function_of(found)
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    code = getattr(function, "__code__", None)
    names = getattr(function, "__globals__", {})
    is_code = isinstance(code, CodeType)
    return f"{module}.{name}", code if is_code else None, names if is_code else {}


def function_of(found: Any) -> Any:
    """What is called in the end: behind partial(), caches, static methods and objects."""
    for _ in range(100):  # a chain of wrappers that is a circle ends here
        if isinstance(found, functools.partial | functools.partialmethod):
            found = found.func
        elif isinstance(getattr(found, "__code__", None), CodeType) or inspect.isclass(found):
            return found
        elif callable(inner := getattr(found, "__wrapped__", None)):
            found = inner
        elif inspect.isfunction(call := getattr(type(found), "__call__", None)):  # noqa: B004 - the method, not whether
            return call
        else:
            return found
    return found


def name_of(found: Any) -> str:
    """The name of any callable: its own, or of what it calls, or of its class."""
    for one in (found, function_of(found)):
        name = getattr(one, "__name__", None)
        if isinstance(name, str) and name != "__call__":
            return name
    return type(found).__name__


def code_digest(function: Callable[..., Any], step_type: Any, declared: str = "") -> str:
    """A digest of the source of a function, and of the steps and own functions that it names.

    `declared` is what else makes it what it is.
    """
    sources: dict[str, str] = {}
    for found in referred(function, step_type):
        of = getattr(found, "function", found) if isinstance(found, step_type) else found
        label, code, _ = code_of(of)
        try:
            sources[label] = inspect.getsource(function_of(of))
        except Exception:  # noqa: BLE001 - no source, or none that can be read
            sources[label] = "" if code is None else code.co_code.hex()
    digest = blake2b(declared.encode(), digest_size=8)
    for label in sorted(sources):
        digest.update(f"{label}\n{sources[label]}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()


def referred(function: Callable[..., Any], step_type: Any) -> Iterator[Any]:
    """The function, and what it names and so on: steps, and functions of its own module."""
    seen: set[str] = set()
    waiting: list[Any] = [function]
    own = getattr(function_of(function), "__module__", None)
    while waiting:
        found = waiting.pop()
        of = found.function if isinstance(found, step_type) else found
        label, code, names = code_of(of)
        if label in seen:
            continue
        seen.add(label)
        yield found
        for name in () if code is None else code.co_names:
            named = names.get(name)
            is_own = inspect.isfunction(named) and named.__module__ == own
            if isinstance(named, step_type) or is_own:
                waiting.append(named)
