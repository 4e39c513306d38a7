"""Contexts of the authors' code: what one sets in it is seen by nobody else.

A copy of a context holds the same objects. That of `decimal` is one that code changes in place
(`getcontext().prec = 3`), so each copy is given one of its own.
"""

import decimal
from contextvars import Context, ContextVar, copy_context


def _variable_of_decimal() -> ContextVar[decimal.Context]:
    context = copy_context()
    own = context.run(decimal.getcontext)
    return next(variable for variable, value in context.items() if value is own)


_DECIMAL = _variable_of_decimal()


class _Process:
    """`base` is what this process had set before its first run."""

    base: Context | None = None


def fresh() -> Context:
    """A context for a run, in which nothing is that any other run has done."""
    if _Process.base is None:
        _Process.base = _without_defaults(copy_context())
    return own(_Process.base.copy())


def own(context: Context) -> Context:
    """This context, just copied: from now on it shares nothing which is changed in place."""
    if _DECIMAL in context:
        context.run(_own_decimal)
    return context


def _own_decimal() -> None:
    decimal.setcontext(decimal.getcontext().copy())


def _without_defaults(context: Context) -> Context:
    """The same, but for a decimal context that says what every new one does: it costs each copy."""
    of_decimal = context.get(_DECIMAL)
    if of_decimal is None or _settings(of_decimal) != _settings(decimal.DefaultContext):
        return context
    made = Context()
    for variable, value in context.items():
        if variable is not _DECIMAL:
            made.run(variable.set, value)
    return made


def _settings(context: decimal.Context) -> str:
    flagless = context.copy()
    flagless.clear_flags()
    return repr(flagless)
