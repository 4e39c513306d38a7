"""What an api tells is decoded as it was encoded, with the texts in it as they were."""

import msgspec
import pytest

from veltrix.client.decoding import decoded


class Part(msgspec.Struct):
    """A part with a text of somebody's."""

    number: int
    text: msgspec.Raw | None = None


class Whole(msgspec.Struct, kw_only=True, rename={"of": "from"}):
    """A list of parts, beside what has another name in JSON."""

    of: str
    parts: list[Part]
    payload: msgspec.Raw | None


class Sparse(msgspec.Struct, omit_defaults=True):
    """What is None is left out of it."""

    data: msgspec.Raw | None = None


WHOLE = (
    b'{"from":"a","parts":[{"number":1,"text":{"b": 1.0}},{"number":2,"text":null}],"payload":null}'
)


def test_texts_are_kept_as_they_were() -> None:
    found = decoded(Whole, WHOLE)

    assert msgspec.json.encode(found) == WHOLE
    assert found.payload is None
    assert found.parts[0].text is not None
    assert bytes(found.parts[0].text) == b'{"b": 1.0}'


def test_null_is_a_value_where_what_is_none_is_left_out() -> None:
    assert decoded(Sparse, b"{}") == Sparse()
    assert bytes(decoded(Sparse, b'{"data":null}').data or b"") == b"null"


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"from":"a","parts":[]}', WHOLE.replace(b'"number":1', b'"number":"1"')]
)
def test_what_is_none_of_the_type_is_said(text: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decoded(Whole, text)
