"""What attributes say is found in time that grows with their length, whoever sent them."""

import json
from functools import partial
from time import process_time

import pytest

from veltrix.domain.attribute_values import charset_of
from veltrix.pipeline.accept.cloudevents import parse_binary, parse_structured
from veltrix.pipeline.accept.event_checks import EXTENSIONS_MAX, NAMED, BadEvent

REQUIRED = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def _with(text: str, **attributes: str) -> bytes:
    return (json.dumps(REQUIRED | attributes)[:-1] + f', "data": {text}}}').encode()


def test_an_event_has_as_many_extensions_as_can_be_looked_at() -> None:
    """A megabyte of them held the interpreter for a second."""
    for count in (EXTENSIONS_MAX, EXTENSIONS_MAX + len(NAMED) + 1):
        names = [f"e{number}" for number in range(count)]
        members = json.dumps(REQUIRED | dict.fromkeys(names, 1)).encode()
        headers = [(f"ce-{name}".encode(), b"1") for name in names]
        headers += [(f"ce-{name}".encode(), value.encode()) for name, value in REQUIRED.items()]
        for parse in (partial(parse_structured, members), partial(parse_binary, headers, b"")):
            if count == EXTENSIONS_MAX:
                assert parse().extensions is not None
            else:
                with pytest.raises(BadEvent, match="at most 100 extensions"):
                    parse()


def test_a_charset_is_found_among_any_parameters_in_time_that_grows_with_them() -> None:
    for head in (
        "text/plain; a=b;charset=ISO-8859-1",
        'text/plain;a="; charset=x";Charset = "iso-8859-1"; charset=y',
        'text/plain;a="\\";charset=iso-8859-1',
        "text/plain; x; charset=Iso-8859-1 ;y",
    ):
        assert charset_of(head) == "iso-8859-1", head
    for unit in (";", ";a=b", ';a="', ';a="\\', '\\"', ";charset*0=", "; ", ";a ", ";=", '";'):
        began = process_time()
        assert charset_of("text/plain" + unit * 200_000) == "utf-8"
        assert process_time() - began < 2.0, unit
    with pytest.raises(BadEvent, match="more than 4,096 bytes"):
        parse_structured(_with('"x"', datacontenttype="text/plain" + ";a=b" * 2_000))


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "hz", "unicode_escape"])
def test_no_charset_makes_a_text_take_longer_than_its_length(charset: str) -> None:
    """As punycode, a text of a megabyte took minutes, in which an api answered nobody."""
    data = json.dumps("\u00e9\u6f22a." * 100_000)
    began = process_time()

    parse_structured(_with(data, datacontenttype=f"text/plain;charset={charset}"))

    assert process_time() - began < 1.0
