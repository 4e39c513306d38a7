"""What is found in JSON texts, of any size, is what a slow look finds; and it is found fast."""

import json
import sys
from collections.abc import Callable
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltrix.domain.json_scan import depth_of
from veltrix.domain.json_text import (
    has_more_elements,
    has_repeated_names,
    json_problem,
    split_array,
)
from veltrix.pipeline.accept.cloudevents import parse_binary, parse_structured

_TEXT = st.text(st.sampled_from('[]{},"\\:x \n\u00e9'), max_size=8)
_VALUE = st.recursive(
    st.none() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=12,
)
SMALL_OBJECTS = ("[" + ",".join(['{"a":1}'] * 125_000) + "]").encode()
EMPTY_OBJECTS = ("[" + ",".join(["{}"] * 340_000) + "]").encode()
LINES = json.dumps([{"sku": "lamp", "note": 'a\n"b"'}] * 25_000).encode()
LARGE = [SMALL_OBJECTS, EMPTY_OBJECTS, LINES]


def slow_depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(slow_depth, value), default=0) if isinstance(value, list) else 0


def calls_of(work: Callable[[], object]) -> int:
    """How many functions were called, in Python and in C: what does not depend on the machine."""
    calls = 0

    def count(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


@given(_VALUE, st.integers(0, 5_000), st.booleans())
def test_depth_is_what_a_recursion_finds(value: Any, shift: int, is_ascii: bool) -> None:
    raw = json.dumps(["x" * shift, value], ensure_ascii=is_ascii).encode()

    assert depth_of(raw) == 1 + slow_depth(value)


@pytest.mark.parametrize("before", [0, 4_080, 4_090, 4_094, 4_095, 4_096, 9_000])
def test_depth_is_bounded_wherever_the_brackets_are(before: int) -> None:
    good = b'["' + b"x" * before + b'",' + b"[" * 499 + b"]" * 499 + b',{"":"[[["}' * 600 + b"]"
    deep = good.replace(b"[" * 499 + b"]" * 499, b"[" * 500 + b"]" * 500)

    assert json_problem(good) is None
    assert json_problem(deep) == "nested deeper than the 500 levels allowed"


@given(st.lists(_VALUE, max_size=6), st.integers(0, 5_000))
def test_an_array_is_split_where_its_elements_end(values: list[Any], shift: int) -> None:
    elements = [json.dumps(value).encode() for value in [*values, "x" * shift, *values]]
    split = split_array(b" [" + b",".join(elements) + b"]\n", 1_000)

    assert split is not None
    assert [bytes(one) for one in split] == elements


def test_of_a_longer_array_no_more_is_split_than_shows_it() -> None:
    raw = b"[" + b"{}," * 300_000 + b"{}]"
    split = split_array(raw, 1_000)

    assert split is not None
    assert len(split) == 1_001
    assert has_more_elements(raw, 1_000)
    assert not has_more_elements(b"[[" + b"1," * 300_000 + b"1],2]", 2)


def test_elements_full_of_brackets_are_split_as_fast_as_one_is_passed_over() -> None:
    """Each of their brackets was looked at: a MiB of a legal batch took ten times as long."""
    element = b"[" + b",".join([b"[]"] * 340) + b"]"
    many, alone = b"[" + b",".join([element] * 1_000) + b"]", b"[[" + b",".join([element] * 1_000)
    assert [bytes(one) for one in split_array(many, 1_000) or ()] == [element] * 1_000

    def took(raw: bytes) -> float:
        began = process_time()
        assert not has_more_elements(raw, 1_000)
        return process_time() - began

    assert min(took(many) for _ in range(3)) < 9 * min(took(alone + b"]]") for _ in range(3))


@pytest.mark.parametrize(
    ("text", "is_repeated"),
    [
        ('{"a":1,"b":{"a":1,"a":2}}', False),
        (' { "a" : 1 , "b" : [ "a" , "}" ] } ', False),
        ('{"a":1,"b":2,"a":1}', True),
        ('{"a":1,"b":2,"a":12}', True),
        ('{"a":12,"a":1}', True),
        ('{"a":"x","\\u0061":"y"}', True),
        ('{"a":"x\\"","b":"a"}', False),
        ('{"a":[1],"a":[1,2]}', True),
        ('{"":{}}', False),
        ("{}", False),
    ],
)
def test_a_name_that_is_there_twice_at_the_top_is_found(text: str, is_repeated: bool) -> None:
    members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])

    assert has_repeated_names(text.encode(), members) is is_repeated


@pytest.mark.parametrize("data", LARGE, ids=["small objects", "empty objects", "lines"])
def test_no_text_is_read_token_by_token_in_python(data: bytes) -> None:
    """One event of a megabyte kept an api from answering anybody for up to 0.9 s."""
    escaped = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"\\u0041","data":'
    head = [
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"1"),
        (b"ce-source", b"/s"),
        (b"ce-type", b"t"),
    ]
    head.append((b"content-type", b"application/json"))
    slices_max = 20 * len(data) // 4_096

    assert calls_of(lambda: parse_structured(escaped + data + b"}")) < slices_max
    assert calls_of(lambda: parse_binary(head, data)) < slices_max
    assert calls_of(lambda: split_array(b"[" + data + b",nope]", 1_000)) < slices_max * 2


@pytest.mark.parametrize("rubbish", [b"[]" * 2_000_000, b'"' * 4_000_000, b'["",[]' * 500_000])
def test_what_is_surely_no_array_of_events_is_not_looked_at_to_its_end(rubbish: bytes) -> None:
    """Four megabytes of it were looked at token by token, for a second."""
    assert split_array(b"[" + rubbish + b"]", 100) is None


def test_a_bad_element_among_good_ones_is_one_element_however_odd() -> None:
    good = b'{"a":"[]{}","b":[[],{}]}'
    odd = [b"{}{}", b"nul", b'"' + b"x" * 9_000 + b'"', b"[" * 90 + b"]" * 90, b"{a:1}"]
    raw = b"[" + b",".join([good, *odd, good]) + b"]"

    assert [bytes(one) for one in split_array(raw, 100) or ()] == [good, *odd, good]
