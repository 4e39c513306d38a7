"""The patch between two payloads: it leads from one to the other, every digit of it."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltrix.authoring.input_schema import InputSchema
from veltrix.domain.json_text import json_problem
from veltrix.operations.replays.patch import (
    EditRefused,
    Patch,
    diff,
    edited,
    exact,
    replacing,
    text_of,
)

ANY = InputSchema(None)
MIB = 1024 * 1024

numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1, 1.0, True, 0, 0.0, -0.0, False, 1e300]),
)
names = st.sampled_from(["", "a", "b", "/", "~", "0"])
payloads = st.recursive(
    st.one_of(numbers, st.none(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)


def in_order(payload: str) -> str:
    """The text with the members of its objects in order, and each number in one way of writing."""
    return json.dumps(json.loads(payload, parse_float=_number, parse_int=_number), sort_keys=True)


def _number(written: str) -> list[str]:
    return [str(Decimal(written).normalize())]  # a list: no text of a payload is one


@given(payloads, payloads)
def test_the_patch_between_two_payloads_makes_one_of_the_other(one: object, other: object) -> None:
    before, after = json.dumps(one), json.dumps(other)
    whole = edited(before, replacing(after), ANY, MIB)

    patch = diff(before, whole, replacing(after))

    made = edited(before, patch, ANY, MIB) if patch else before
    assert in_order(made) == in_order(after)


def test_only_what_differs_is_in_the_patch_also_beside_decimals() -> None:
    before, after = '{"price": 1.50, "rate": 0.1}', '{"price": 2.5, "rate": 0.1}'

    patch = diff(before, text_of(exact(after)), replacing(after))

    assert text_of(patch) == '[{"op":"replace","path":"/price","value":2.5}]'


def test_of_a_deep_payload_the_whole_is_kept() -> None:
    before, after = "[" * 200 + "1.5" + "]" * 200, "2.5"

    assert diff(before, after, replacing(after)) == replacing(after)


def test_what_a_patch_copies_is_counted_also_where_it_removes_it_again() -> None:
    """Forty times half a MiB took nine seconds, and in the end the payload is as it was."""
    payload = text_of({"a": [{"n": number} for number in range(50_000)]})
    there_and_back: Patch = [
        {"op": "copy", "from": "/a", "path": "/c"},
        {"op": "remove", "path": "/c"},
    ]

    with pytest.raises(EditRefused, match=r"operation 6, copy '/c', .*copies more than twice"):
        edited(payload, there_and_back * 20, ANY, MIB)

    assert edited(payload, there_and_back, ANY, MIB) == payload


def test_what_was_copied_is_another_value_with_every_digit() -> None:
    twice: Patch = [
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "add", "path": "/b/0/c", "value": 1},
    ]

    assert edited('{"a":[{"n":1.10}]}', twice, ANY, MIB) == (
        '{"a":[{"n":1.10}],"b":[{"n":1.10,"c":1}]}'
    )


@pytest.mark.parametrize("written", ["0E+", "-0e", "1e-", "-7.5E-"])
def test_an_exponent_that_no_decimal_has_is_of_a_number_that_is_nothing(written: str) -> None:
    """Senders may write it, and doubles read it as 0: an edit beside it was an error of ours."""
    before = f'{{"a":{written}{"9" * 30},"b":"1"}}'
    assert json_problem(before.encode()) is None

    made = edited(before, [{"op": "replace", "path": "/b", "value": 1}], ANY, MIB)

    assert json.loads(made)["a"] == 0
    assert json.loads(made)["b"] == 1
