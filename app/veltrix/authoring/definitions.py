"""What cannot be a step, said where it is made one."""

import inspect
from typing import Any

from veltrix.authoring.code import code_of, function_of, name_of


class DefinitionError(TypeError):
    """A workflow or step is declared in a way that cannot work; the message says how it can."""


def is_async(function: Any) -> bool:
    """Calling it gives something to await."""
    return inspect.iscoroutinefunction(function) or (
        not inspect.isfunction(function)
        and not inspect.isclass(function)
        and inspect.iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004
    )


def check_step(function: Any) -> None:
    """Raises DefinitionError if a step cannot be made of it."""
    if isinstance(function, classmethod | property) or not callable(function):
        raise DefinitionError(
            f"@step and @transaction take a function, not {_shown(function)}; options are named, as"
            " in @step(retries=5)"
        )
    name, inner = name_of(function), function_of(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise DefinitionError(f"step {name!r} is a generator; return a list of what it would yield")
    if hasattr(function, "cache_info") and is_async(inner):
        raise DefinitionError(
            f"step {name!r} is a cache of an async def: it would give the same coroutine twice"
        )
    code = code_of(function)[1]
    is_bound = hasattr(function, "__self__") or inner is not function
    first = code.co_varnames[0] if code is not None and code.co_argcount else ""
    if first in ("self", "cls") and not is_bound:
        raise DefinitionError(
            f"step {name!r} is a method; make it a function, which is given what it needs of its"
            f" {first}, or a staticmethod"
        )


def _shown(function: Any) -> str:
    return repr(function) if isinstance(function, str | int) else type(function).__name__
