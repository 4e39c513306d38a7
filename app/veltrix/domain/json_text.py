"""JSON as sent: what is wrong with a text, found without changing it.

Texts are megabytes and come from anybody, so nothing here works through one token by token in
Python: brackets are counted a slice at a time, by functions of `bytes`, and time is linear.
"""

import re
from array import array
from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from math import inf

import msgspec

from veltrix.domain.give_way import LONG_BYTES, give_way
from veltrix.domain.json_scan import (
    is_deeper,
    may_be_deeper,
    may_have_large_numbers,
    number_problem,
    outside_of_strings,
)

DEPTH_MAX = 500  # half of what Python's decoders take, so that a workflow's stack may come on top

_skip = msgspec.json.Decoder(msgspec.Raw).decode  # checks all but UTF-8 and how large a number is
_decode_text = msgspec.json.Decoder(str).decode
_MALFORMED = re.compile(r"JSON is malformed: (.*) \(byte (\d+)\)").fullmatch
_SHOWN = 20  # bytes of what is wrong
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]").search
# A decoder makes an object of each element, at once: of millions it takes the time of seconds.
_COMMAS_TRUSTED = 50_000
JSON_SPACE = b" \t\r\n"
BOM = b"\xef\xbb\xbf"  # some put it before UTF-8; RFC 8259 lets a reader pass over it
# What a text that is none begins with, and what to say of it.
_OTHERS = {
    b"\xff\xfe": "it is UTF-16; send it as UTF-8",
    b"\xfe\xff": "it is UTF-16; send it as UTF-8",
    b"\x1f\x8b": "it is compressed by gzip; say so in the header Content-Encoding",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd; say so in the header Content-Encoding",
    b"\x78\x9c": "it is compressed by deflate; say so in the header Content-Encoding",
    b"PK": "it is a ZIP archive",
    b"<": "it is XML or HTML",
}
_OTHER = re.compile(b"|".join(map(re.escape, _OTHERS))).match

_SLICE_BYTES, _SHORT_BYTES = 4_096, 128
# Quotes and brackets where elements end: an array with more of them for each is none of events.
_LOOKS_PER_ELEMENT = 300
# Brackets as steps of depth, for `array("b")`, and all that is none.
_STEPS, _NO_BRACKETS = (
    bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff"),
    bytes(set(range(256)) - set(b"[{]}")),
)
_OPENS = b"\x01"
_CUTTING = re.compile(rb"[\[\]{},]").finditer
_NAME = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL).match
_AFTER = re.compile(rb"[ \t\r\n]*[,}]").match


def json_problem(raw: bytes) -> str | None:
    """What keeps this from being decodable JSON, as the end of "data is ...", or None."""
    try:
        _skip(raw)
    except (ValueError, RecursionError) as error:
        return bad_json(raw, error)
    return value_problem(raw)


def value_problem(raw: bytes) -> str | None:
    """The same of what a decoder has passed over, so that its syntax is that of JSON."""
    if len(raw) > LONG_BYTES:
        give_way()
    try:
        raw.decode()
    except ValueError as error:
        return bad_json(raw, error)
    if may_be_deeper(raw, DEPTH_MAX) and is_deeper(raw, DEPTH_MAX):
        return f"nested deeper than the {DEPTH_MAX} levels allowed"
    if not may_have_large_numbers(raw):
        return None
    give_way()
    return number_problem(outside_of_strings(raw))


def bad_json(raw: bytes, error: Exception) -> str:
    """In words for the sender, why a decoder refused `raw`."""
    if isinstance(error, RecursionError):
        return f"nested deeper than the {DEPTH_MAX} levels allowed"
    if other := _OTHER(raw):
        return f"not JSON in UTF-8: {_OTHERS[other[0]]}"
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    if "out of range" in str(error):
        return "not usable: a number is out of range"
    if _HALF_PAIR(raw) and "truncated" in str(error):
        return "not usable: a \\u escape is half of a surrogate pair"
    return _where(raw, str(error))


def _where(raw: bytes, said: str) -> str:
    """What a decoder said, in words of people: it counts bytes from 0."""
    if "truncated" in said:
        return "empty" if not raw.strip(JSON_SPACE) else "not JSON: it ends too early"
    found = _MALFORMED(said)
    if found is None:
        return f"not JSON: {said}"
    at = int(found[2])
    where = f"after {at:,} bytes" if at else "at its beginning"
    shown = raw[at : at + _SHOWN].decode("ascii", "backslashreplace")
    return f"not JSON: {found[1]} {where}{f': {shown!r}' if shown else ''}"


class _Slice(msgspec.Struct, gc=False):
    """What a stretch of a text has outside of strings: `parts`, from `at` on, and the brackets."""

    at: int
    parts: list[bytes]  # cut at each quote
    is_inside: bool  # the first part is in a string; after that, each second one
    steps: bytes
    opens: int

    def depths(self, depth_before: int) -> Iterator[int]:
        """The depth before it and after each of its brackets."""
        return accumulate(array("b", self.steps), initial=depth_before)


def _slices(raw: bytes) -> Iterator[_Slice]:
    """The whole text. Escapes are blanked first, so that each quote begins or ends a string."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    return _slices_of(raw, _SLICE_BYTES)


def _slices_of(
    raw: bytes, size: int, first: int = 0, *, is_inside: bool = False
) -> Iterator[_Slice]:
    for at in range(0, len(raw), size):
        parts = raw[at : at + size].split(b'"')
        steps = b"".join(parts[is_inside::2]).translate(_STEPS, _NO_BRACKETS)
        yield _Slice(first + at, parts, is_inside, steps, steps.count(_OPENS))
        is_inside ^= len(parts) % 2 == 0


def has_more_elements(raw: bytes, elements_max: int) -> bool:
    """Whether this is an array of more elements, found without making millions of objects.

    False when it surely has fewer than 50,000, or is no array: a decoder says it as fast.
    """
    if raw.count(b",") < max(elements_max, _COMMAS_TRUSTED):
        return False
    return len(_top_level_cuts(raw, elements_max) or ()) > elements_max + 1


def split_array(raw: bytes, elements_max: int) -> list[memoryview] | None:
    """The elements of a JSON array, each perhaps invalid in itself; None if it is no array at all.

    Of more than `elements_max`, only so many and one more. It needs only balanced brackets and
    closed strings, so one bad element does not hide the others.
    """
    cuts = _top_level_cuts(raw, elements_max)
    if cuts is None:
        return None
    view = memoryview(raw)
    elements = [view[at + 1 : end] for at, end in pairwise(cuts)]
    is_empty = len(elements) == 1 and not bytes(elements[0]).strip(JSON_SPACE)
    return [] if is_empty else elements


def _top_level_cuts(raw: bytes, elements_max: int) -> list[int] | None:
    """Where the array begins, is cut by its commas, and ends; None if it is no array."""
    first = len(raw) - len(raw.lstrip(JSON_SPACE))
    last = len(raw.rstrip(JSON_SPACE)) - 1
    if raw[first : first + 1] != b"[" or raw[last : last + 1] != b"]":
        return None
    cuts = [first]
    depth = 0
    is_inside = False
    left: float = _LOOKS_PER_ELEMENT * (elements_max + 1)
    for slice_ in _slices(raw):
        depth_before, depth = depth, depth + 2 * slice_.opens - len(slice_.steps)
        is_inside = slice_.is_inside ^ (len(slice_.parts) % 2 == 0)
        if depth_before >= 2 and min(slice_.depths(depth_before)) >= 2:
            continue  # all of it is within one element
        left -= _cut_closely(slice_, depth_before, last, cuts)
        if left < 0:
            return None
        if len(cuts) > elements_max + 1:
            return cuts[: elements_max + 2]
    return [*cuts, last] if depth == 0 and not is_inside else None


def _cut_closely(slice_: _Slice, depth: int, last: int, cuts: list[int]) -> float:
    """As `_cut`, which looks only at the short stretches that are not within one element.

    How much there was to look at; infinite: the array ended before its end.
    """
    text = b'"'.join(slice_.parts)
    looks = 0
    for short in _slices_of(text, _SHORT_BYTES, slice_.at, is_inside=slice_.is_inside):
        before, depth = depth, depth + 2 * short.opens - len(short.steps)
        if before >= 2 and min(short.depths(before)) >= 2:
            continue
        looks += len(short.parts) + len(short.steps) - 1  # nothing in the middle of a long string
        if not _cut(short, before, last, cuts):
            return inf
    return looks


def _cut(slice_: _Slice, depth: int, last: int, cuts: list[int]) -> bool:
    """Add where this slice has commas of the array; False: the array ended before its end."""
    at = slice_.at
    for index, part in enumerate(slice_.parts):
        if index % 2 == slice_.is_inside:
            for token in _CUTTING(part):
                if token[0] in (b"[", b"{"):
                    depth += 1
                elif token[0] != b",":
                    depth -= 1
                    if depth == 0 and at + token.start() != last:
                        return False
                elif depth == 1:
                    cuts.append(at + token.start())
        at += len(part) + 1
    return True


def has_repeated_names(raw: bytes, members: Mapping[str, msgspec.Raw]) -> bool:
    """Whether a valid JSON object has a member name twice at its top level.

    `members` is what was decoded of it: the last value of each name. Values are compared, not read:
    where the text goes on with another one, that name is there again.
    """
    at = raw.index(b"{") + 1
    seen = set()
    while (name := _NAME(raw, at)) is not None:
        known = _decode_text(name[1])
        value = bytes(members[known])
        after = _AFTER(raw, name.end() + len(value))
        if known in seen or after is None or not raw.startswith(value, name.end()):
            return True
        seen.add(known)
        at = after.end()
    return False
