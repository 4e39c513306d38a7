"""What is found of a JSON text without decoding it is what a decoder would find."""

import json
import re
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltrix.domain import json_scan
from veltrix.domain.json_scan import (
    INT_DIGITS_MAX,
    LARGE_MAX,
    depth_of,
    is_deeper,
    outside_of_strings,
)
from veltrix.domain.json_text import json_problem

decode = msgspec.json.Decoder().decode
texts = st.text(st.sampled_from('[]{}",:\\\u00e9e0'), max_size=6)
payloads = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=60,
)
exponents = st.one_of(st.integers(-400, 400), st.sampled_from([288, 290, 307, 308, 309, 4_000]))
numbers = st.one_of(
    st.builds("{}e{}".format, st.integers(-(10**120), 10**120), exponents),
    st.builds("{}e{}".format, st.integers(10, 99), st.integers(300, 310)),
    st.builds("{}.{}E+{:05}".format, st.integers(0, 99), st.integers(0, 99), st.integers(0, 320)),
    st.builds(lambda digits, rest: "7" * digits + rest, st.integers(90, 320), st.sampled_from(
        ["", ".5", "e-200", "e99", "e199", "E+200", ".0e1", "e-0001"]
    )),
    st.sampled_from(["1.7976931348623157e308", "1.7976931348623159e308", "-1e309", "0e999"]),
)  # fmt: skip


def nested(value: object) -> int:
    """How deep, by walking it."""
    if isinstance(value, dict):
        return 1 + max(map(nested, value.values()), default=0)
    return 1 + max(map(nested, value), default=0) if isinstance(value, list) else 0


@given(payloads, st.sampled_from([None, 1]), st.integers(0, 40))
def test_depth_is_that_of_the_value(value: object, indent: int | None, deeper: int) -> None:
    text = "[" * deeper + json.dumps(value, ensure_ascii=deeper % 2 == 0, indent=indent)
    text += "]" * deeper

    depth = nested(value) + deeper
    assert depth_of(text.encode()) == depth
    assert not is_deeper(text.encode(), depth)
    assert depth == 0 or is_deeper(text.encode(), depth - 1)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.integers(1, 700))
def test_deeper_than_is_found_wherever_it_is(depths: list[int], most: int) -> None:
    text = "[" + ",".join("[" * depth + "]" * depth for depth in depths) + "]"

    assert is_deeper(text.encode(), most) == (1 + max(depths) > most)


@given(st.lists(numbers, min_size=1, max_size=4), texts)
def test_a_number_is_refused_where_no_decoder_takes_it(found: list[str], text: str) -> None:
    raw = f'{{"e000": [{", ".join(found)}], {json.dumps(text)}: 1}}'.encode()
    try:
        decode(raw)
    except msgspec.DecodeError:
        assert json_problem(raw) == "not usable: a number is out of range"
    else:
        assert json_problem(raw) is None


@given(payloads, st.integers(0, 10_000), st.binary(min_size=1, max_size=2))
def test_whatever_was_spoiled_is_refused_where_a_decoder_refuses_it(
    value: object, place: int, other: bytes
) -> None:
    raw = json.dumps(value).encode()
    at = place % len(raw)
    raw = raw[:at] + other + raw[at + 1 :]
    try:
        decode(raw)
        is_json = True
    except (msgspec.DecodeError, UnicodeDecodeError):
        is_json = False

    assert (json_problem(raw) is None) == is_json


@pytest.mark.parametrize("digits", [INT_DIGITS_MAX, INT_DIGITS_MAX + 1])
def test_an_int_may_have_as_many_digits_as_python_reads(digits: int) -> None:
    raw = f'["1e999", -{"9" * digits}]'.encode()

    assert (json_problem(raw) is None) == (digits <= INT_DIGITS_MAX)


def test_of_numbers_that_take_long_to_read_there_are_few() -> None:
    few = b"[" + b",".join([b"1e307"] * LARGE_MAX) + b"]"

    assert json_problem(few) is None
    assert json_problem(few.replace(b"[", b"[1e307,")) == (
        "not usable: more than 1,000 numbers are beyond 1e200"
    )
    assert json_problem(few.replace(b"e307", b"e199").replace(b"[", b"[1e307,")) is None


@given(st.lists(payloads, max_size=3), st.integers(1, 70))
def test_a_slice_may_end_anywhere(parts: list[object], size: int) -> None:
    text = json.dumps([*parts, ['"\\', "", "\\\\", '\\"', [[]], {"[": "]"}]])
    raw = text.encode()
    without = re.sub(r'"(?:[^"\\]|\\.)*"', "\n", text).encode()

    with patch.object(json_scan, "SLICE_BYTES", size):
        assert outside_of_strings(raw) == without
        assert depth_of(raw) == nested(json.loads(text))
        assert not is_deeper(raw, depth_of(raw))
        assert is_deeper(raw, depth_of(raw) - 1)
