"""Patterns of names: `*` is any run of characters, also none, and everything else is itself.

The whole name must fit, and upper and lower case differ. There is no `?`, no `[...]` and no way to
write a `*` that is only itself. Whatever the pattern, a look costs what reading the name costs.
"""

from collections.abc import Iterable, Sequence

PATTERNS_MAX = 32
PATTERN_CHARS_MAX = 256
_TOLD_MAX = 5


def fits(pattern: str, name: str) -> bool:
    """Whether the name is what the pattern describes."""
    first, *others = pattern.split("*")
    if not others:
        return name == first
    last = others.pop()
    at, end = len(first), len(name) - len(last)
    if at > end or not name.startswith(first) or not name.endswith(last):
        return False
    # Each piece where it comes first: what is left for those after it is then the most there is.
    for piece in others:
        found = name.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def fits_any(patterns: Iterable[str], name: str) -> bool:
    """Whether the name is what one of the patterns describes."""
    return any(fits(pattern, name) for pattern in patterns)


def mistake_in(patterns: Sequence[str]) -> str | None:
    """What is wrong with a list of patterns, in words; None: nothing is."""
    if not 0 < len(patterns) <= PATTERNS_MAX:
        return f"there may be 1 to {PATTERNS_MAX} of them"
    for pattern in patterns:
        if not 0 < len(pattern) <= PATTERN_CHARS_MAX or not pattern.isprintable():
            return f"each has 1 to {PATTERN_CHARS_MAX} printable characters"
    return None


def told(patterns: Sequence[str]) -> str:
    """The patterns as words: `'/shop/*' or '/till'`; of many, the first."""
    shown = [repr(pattern) for pattern in patterns[:_TOLD_MAX]]
    if more := len(patterns) - len(shown):
        return f"{', '.join(shown)} or {more} more"
    return " or ".join(shown)
