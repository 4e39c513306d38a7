"""How a sabotage replaces a part of the product: a function, a method or words of a statement."""

import importlib
from collections.abc import Callable
from inspect import isfunction, signature
from typing import Any

Saboteur = Callable[[], None]


def swap(module: str, name: str, *pairs: tuple[str, str]) -> None:
    """Replace parts of a statement; each must be there, or the sabotage would be a sham."""
    there = importlib.import_module(module)
    text: str = getattr(there, name)
    for old, new in pairs:
        if old not in text:
            raise AssertionError(f"{module}.{name} has no {old!r}")
        text = text.replace(old, new)
    setattr(there, name, text)


def replace(module: str, path: str, make: Callable[[Any], Any]) -> None:
    """Replace a function, or a method `Class.name`, by what `make` makes of it.

    It must take all that the function takes, or the sabotage would be another than it says.
    """
    there: Any = importlib.import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        there = getattr(there, holder)
    old = getattr(there, name)
    made = make(old)
    if isfunction(old) and isfunction(made):
        _check_arguments(old, made)
    setattr(there, name, made)


def _check_arguments(old: Callable[..., Any], made: Callable[..., Any]) -> None:
    there = signature(old).parameters.values()
    positional = [
        one for one in there if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    by_name = {one.name: None for one in there if one.kind is one.KEYWORD_ONLY}
    try:
        signature(made, follow_wrapped=False).bind(*positional, **by_name)
    except TypeError as error:
        raise AssertionError(f"the sabotage of {old.__qualname__}: {error}") from error


def nothing(result: Any = None) -> Callable[[Any], Any]:
    """Instead of a function: this, whatever it is called with."""
    return lambda _: lambda *_args, **_keywords: result
