"""What cannot be a step, said where it is made one."""

import inspect
from collections.abc import Mapping
from typing import Any

from veltrix.authoring.code import code_of, function_of, name_of


class DefinitionError(TypeError):
    """A workflow or step is declared in a way that cannot work; the message says how it can.

    It begins with file and line of the declaration, if it `is_placed`: found among the callers.
    """

    def __init__(self, message: str, *, is_placed: bool = True) -> None:
        super().__init__(f"{_place_of_author()}{message}" if is_placed else message)


def _place_of_author() -> str:
    """`file:line: ` of the nearest caller that is not the platform; nothing without one."""
    frame = inspect.currentframe()
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] != "veltrix":
            return f"{shown_path(frame.f_code.co_filename, module)}:{frame.f_lineno}: "
        frame = frame.f_back
    return ""


def shown_path(filename: str, module: str) -> str:
    """The file as its author knows it: `shop/orders.py` of the module `shop.orders`."""
    parts = filename.split("/")
    depth = module.count(".") + 1 + (parts[-1] == "__init__.py")
    return "/".join(parts[-depth:])


NUMBER = (int, float)
_NONE = type(None)


def check_options(decorator: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises DefinitionError for an option that is not `known`, or not of its types there."""
    for name, value in given.items():
        if name not in known:
            raise DefinitionError(f"{decorator} has no option {name!r}; {_cure(name, known)}")
        types = known[name] if isinstance(known[name], tuple) else (known[name],)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            words = " or ".join("None" if one is _NONE else one.__name__ for one in types)
            raise DefinitionError(
                f"option {name!r} of {decorator} must be {words}, not {_shown(value)}"
            )


def _cure(name: str, known: Mapping[str, Any]) -> str:
    from difflib import get_close_matches  # takes a while, and no correct program needs it

    close = get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"it has {', '.join(known)}" if known else "it has none"


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
    if type(function).__name__ == "Workflow" and not inspect.isroutine(function):
        raise DefinitionError(
            f"{function.name!r} is a workflow, and cannot be a step too; keep one of the"
            " two decorators"
        )
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
    is_short = isinstance(function, str | int | float) or function is None
    return repr(function) if is_short else type(function).__name__
