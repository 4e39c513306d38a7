"""What a JSON text of megabytes is like, found without an object for each of its parts.

A decoder makes a list of each bracket and takes a tenth of a second for a hostile MiB. Here all of
it is done by functions of `bytes` and `int`, whose time is linear and small.
"""

import re
from array import array
from collections.abc import Iterator
from itertools import accumulate, chain, islice

import msgspec

from veltrix.domain.give_way import give_way

_GROUP, _STRETCH = 8, 128  # brackets that are looked at together
SLICE_BYTES = 64 * 1024  # whatever is in it, each step takes a millisecond at most
# Wherever it is deepest a bracket is closed at once: without these it is one less.
_DEEPEST = b"10"
# What says how deep it is, and all that says nothing of it.
_DIGITS, _NO_MARKS = bytes.maketrans(b"[{]}", b"1100"), bytes(set(range(256)) - set(b'[{]}"'))


def _rise_of(brackets: int) -> tuple[int, int]:
    """How much deeper it is after these eight brackets, and at most within them."""
    steps = [1 if brackets >> bit & 1 else -1 for bit in reversed(range(_GROUP))]
    depths = list(accumulate(steps))
    return depths[-1], max(0, *depths)


_RISES = [_rise_of(brackets) for brackets in range(1 << _GROUP)]
_AFTER = bytes(after % 256 for after, _ in _RISES)  # as signed bytes
_WITHIN = bytes(within for _, within in _RISES)

# A number may be too large for a double, or for an int of Python, only where there is one of these.
# Below: 108 digits and e199 are 1e307.
_AS_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG, _HIGH = b"0" * 108, b"e000"
_HIGH_EXPONENT = re.compile(rb"e\+?0*(?:[1-9][0-9]{3}|[2-9][0-9]{2})").finditer
_SCALARS = bytes.maketrans(b"[]{}:, \t\rE", b"\n\n\n\n\n\n\n\n\ne")
# Each takes a decoder, and the worker's too, as long as a hundred others.
LARGE_MAX = 1_000
_DOUBLE_DIGITS = 108  # and more with an exponent
INT_DIGITS_MAX = 4_300  # Python's own limit
_decode = msgspec.json.Decoder().decode


def may_be_deeper(raw: bytes, depth_max: int) -> bool:
    """False: surely not. It takes no time."""
    return raw.count(b"[") + raw.count(b"{") > depth_max


def may_have_large_numbers(text: bytes) -> bool:
    """False: surely none that `number_problem` would speak of. It takes no time."""
    zeros = text.translate(_AS_ZEROS, b"+")
    return _HIGH in zeros or _LONG in zeros


def outside_of_strings(raw: bytes) -> bytes:
    """Valid JSON without its strings, each of which was where there is a newline now."""
    slices = (one.replace(b'""', b"\n").split(b'"') for one in _slices(raw))
    return b"".join(b"\n".join(parts[::2]) for parts in slices)


def _slices(raw: bytes) -> Iterator[bytes]:
    """Valid JSON a slice at a time, without escapes, so that each quote begins or ends a string.

    A slice that begins within a string has a quote before it.
    """
    at, is_inside = 0, False
    while at < len(raw):
        slice_ = raw[at : at + SLICE_BYTES]
        if (len(slice_) - len(slice_.rstrip(b"\\"))) % 2:  # an escape is not cut
            slice_ = raw[at : at + SLICE_BYTES + 1]
        at += len(slice_)
        if b"\\" in slice_:
            slice_ = slice_.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        if is_inside:
            slice_ = b'"' + slice_
        is_inside = slice_.count(b'"') % 2 == 1
        yield slice_
        give_way()


def is_deeper(raw: bytes, depth_max: int) -> bool:
    """Whether the lists and objects of valid JSON are nested deeper.

    Only where a stretch has as many brackets that it may be so are its brackets looked at.
    """
    depth, has_brackets = 1, False
    for digits in _brackets(raw):
        has_brackets = True
        inner = digits.replace(_DEEPEST, b"")
        for at in range(0, len(inner), _STRETCH):
            stretch = inner[at : at + _STRETCH]
            opens = stretch.count(b"1")
            if depth + opens > depth_max and depth + _rise(stretch) > depth_max:
                return True
            depth += 2 * opens - len(stretch)
    return has_brackets and depth_max < 1


def depth_of(raw: bytes) -> int:
    """How deep the lists and objects of valid JSON are nested."""
    digits = b"".join(_brackets(raw))
    return int(bool(digits)) + _rise(digits.replace(_DEEPEST, b""))


def _brackets(raw: bytes) -> Iterator[bytes]:
    """Those outside of strings, as binary digits; one that is closed at once is with its other."""
    held = b""
    for slice_ in _slices(raw):
        # Two quotes with no bracket between begin and end nothing that is looked for.
        marks = slice_.translate(None, _NO_MARKS).replace(b'""', b"")
        if b'"' in marks:
            marks = b"".join(marks.split(b'"')[::2])
        digits = held + marks.translate(_DIGITS)
        held = digits[-1:] if digits.endswith(b"1") else b""
        if len(digits) > len(held):
            yield digits[: len(digits) - len(held)]


def _rise(digits: bytes) -> int:
    """How much deeper it is at most than before them."""
    if not digits:
        return 0
    digits += b"0" * (-len(digits) % _GROUP)
    # Powers of two as a base are linear, and have no limit of digits.
    groups = int(digits, 2).to_bytes(len(digits) // _GROUP, "big")
    depths: Iterator[int] = accumulate(array("b", groups.translate(_AFTER)), initial=0)
    return max(map(int.__add__, depths, groups.translate(_WITHIN)))


def number_problem(outside: bytes) -> str | None:
    """What is wrong with a number, of what is outside of the strings of valid JSON, or None."""
    if not may_have_large_numbers(outside):
        return None
    give_way()
    scalars = outside.translate(_SCALARS)
    high = [found.start() for found in islice(_HIGH_EXPONENT(scalars), LARGE_MAX + 1)]
    if len(high) > LARGE_MAX:
        return f"not usable: more than {LARGE_MAX:,} numbers are beyond 1e200"
    for at in chain(high, _long_numbers(scalars)):
        try:
            _decode(_line_at(scalars, at))
        except msgspec.DecodeError:
            return "not usable: a number is out of range"
    return None


def _long_numbers(scalars: bytes) -> Iterator[int]:
    """Where those are that have more digits than an int, or a double, may have."""
    zeros = scalars.translate(_AS_ZEROS)
    give_way()
    at = zeros.find(_LONG)
    while at >= 0:
        end = _end_of_line(scalars, at)
        number = _line_at(scalars, at).removeprefix(b"-")
        whole = len(number.partition(b".")[0])
        if whole > (INT_DIGITS_MAX if number.isdigit() else _DOUBLE_DIGITS):
            yield at
        at = zeros.find(_LONG, end)


def _line_at(lines: bytes, at: int) -> bytes:
    return lines[lines.rfind(b"\n", 0, at) + 1 : _end_of_line(lines, at)]


def _end_of_line(lines: bytes, at: int) -> int:
    end = lines.find(b"\n", at)
    return len(lines) if end < 0 else end
