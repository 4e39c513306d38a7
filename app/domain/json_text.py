"""JSON as sent: what is wrong with a text, found without changing it."""

import json
import re
from itertools import pairwise
from typing import Any

import msgspec

DEPTH_MAX = 500  # half of what Python's decoders take, so that a workflow's stack may come on top

_decode = msgspec.json.Decoder().decode
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]").search
# A string; a bracket or comma; or a quote that begins no string: the text is broken.
_STRUCTURE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},"]', re.DOTALL)
_SPACE = b" \t\r\n"


def json_problem(raw: bytes) -> str | None:
    """What keeps this from being decodable JSON, as the end of "data is ...", or None."""
    may_be_deep = raw.count(b"[") + raw.count(b"{") > DEPTH_MAX
    if may_be_deep and depth_of(raw) > DEPTH_MAX:
        return f"nested deeper than the {DEPTH_MAX} levels allowed"
    try:
        _decode(raw)
    except (ValueError, RecursionError) as error:
        return bad_json(raw, error)
    return None


def bad_json(raw: bytes, error: Exception) -> str:
    """In words for the sender, why a decoder refused `raw`."""
    if isinstance(error, RecursionError):
        return f"nested deeper than the {DEPTH_MAX} levels allowed"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    if "out of range" in str(error):
        return "not usable: a number is out of range"
    if _HALF_PAIR(raw) and "truncated" in str(error):
        return "not usable: a \\u escape is half of a surrogate pair"
    return f"not JSON ({error})"


def depth_of(raw: bytes) -> int:
    """How deep its lists and objects are nested."""
    depth = deepest = 0
    for token in _STRUCTURE.finditer(raw):
        first = raw[token.start()]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
    return deepest


def split_array(raw: bytes) -> list[memoryview] | None:
    """The elements of a JSON array, each perhaps invalid in itself; None if it is no array at all.

    It needs only balanced brackets and closed strings, so one bad element does not hide the others.
    """
    cuts = _top_level_cuts(raw)
    if cuts is None:
        return None
    view = memoryview(raw)
    elements = [view[at + 1 : end] for at, end in pairwise(cuts)]
    is_empty = len(elements) == 1 and not bytes(elements[0]).strip(_SPACE)
    return [] if is_empty else elements


def _top_level_cuts(raw: bytes) -> list[int] | None:
    """Where the array begins, is cut by its commas, and ends; None if it is no array."""
    first = len(raw) - len(raw.lstrip(_SPACE))
    last = len(raw.rstrip(_SPACE)) - 1
    if raw[first : first + 1] != b"[" or raw[last : last + 1] != b"]":
        return None
    cuts = [first]
    depth = 0
    for token in _STRUCTURE.finditer(raw, first, last + 1):
        text = token[0]
        if text == b'"':
            return None  # it never ends
        if text in (b"[", b"{"):
            depth += 1
        elif text in (b"]", b"}"):
            depth -= 1
            if depth == 0 and token.start() != last:
                return None
        elif text == b"," and depth == 1:
            cuts.append(token.start())
    return [*cuts, last] if depth == 0 else None


def has_repeated_names(raw: bytes) -> bool:
    """Whether a valid JSON object has a member name twice at its top level."""
    pairs: list[tuple[str, Any]] = []

    def keep(found: list[tuple[str, Any]]) -> None:
        pairs[:] = found  # the outermost object comes last

    json.loads(raw.decode("utf-8", "replace"), object_pairs_hook=keep)
    return len({name for name, _ in pairs}) < len(pairs)
