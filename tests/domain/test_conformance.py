"""What the public conformance suite of CloudEvents has, and its kin, in words of our own.

The cases of `format/json` of cloudevents/conformance are all here (its ids are the names in
capitals); beside each of them others of its kind.
"""

import json
from typing import Any

import pytest

from veltrix.domain.events import NewEvent
from veltrix.pipeline.accept.cloudevents import parse_batch, parse_binary, parse_structured
from veltrix.pipeline.accept.event_checks import BadEvent

MINIMAL: dict[str, Any] = {
    "specversion": "1.0",
    "id": "minimal",
    "type": "io.cloudevents.test",
    "source": "https://cloudevents.io",
}
ABSENT = object()


def changed(name: str, value: Any) -> dict[str, Any]:
    event = MINIMAL | {name: value}
    return {k: v for k, v in event.items() if v is not ABSENT}


VALID: list[tuple[str, Any]] = [
    ("datacontenttype", "text/plain"),
    ("datacontenttype", "text/plain; charset=utf-8"),
    ("datacontenttype", 'multipart/mixed; boundary="a; b"'),
    ("datacontenttype", "application/vnd.acme+json;v=1;"),
    ("datacontenttype", "application/soap+xml; action=urn:foo"),
    ("datacontenttype", "application/json; charset = utf-8; profile=http://x/y"),
    ("datacontenttype", "a/b" + "; " * 2_000 + "@"),
    ("datacontenttype", None),
    ("dataschema", "https://cloudevents.io/dataschema"),
    ("dataschema", "urn:acme:order:1"),
    ("dataschema", None),
    ("subject", "tests"),
    ("subject", "with space"),
    ("subject", None),
    ("time", "2018-04-05T17:31:00Z"),
    ("time", "2018-04-05T17:31:00.000000000Z"),
    ("time", "2018-04-05T18:31:00+01:00"),
    ("time", "2018-04-05T16:31:00-01:00"),
    ("time", None),
    ("source", "#fragment"),
    ("source", "//authority/path?x=1"),
    ("source", "/käse/ü"),
    ("extinteger", 10),
    ("extinteger", -(2**31)),
    ("extinteger", 2**31 - 1),
    ("extboolean", True),
    ("extstring", "text"),
    ("exturi", "https://cloudevents.io"),
    ("exttimestamp", "2023-03-31T15:12:00Z"),
    ("extbinary", "TWE="),
    ("extnull", None),
]
INVALID: list[tuple[str, Any]] = [
    ("specversion", ABSENT),
    ("id", ABSENT),
    ("type", ABSENT),
    ("source", ABSENT),
    ("time", "lunchtime"),
    ("time", "2018-04-05T18:31Z"),
    ("time", "2018-04-05T18:31:00X"),
    ("time", "2018-04-05T18:31:00+25:00"),
    ("time", "2018-04-05T18:31:00+xx:00"),
    ("time", "2018-04-05T18:31:00+05"),
    ("time", ""),
    ("id", ""),
    ("type", ""),
    ("source", ""),
    ("specversion", ""),
    ("specversion", "0.9"),
    ("specversion", "1.0 "),
    ("datacontenttype", "xyz"),
    ("datacontenttype", ""),
    ("datacontenttype", "text/"),
    ("datacontenttype", "text/plain charset=utf-8"),
    ("datacontenttype", "a/b @" + "; " * 2_000 + "@"),
    ("dataschema", ""),
    ("dataschema", "no uri at all"),
    ("source", "no uri at all"),
    ("source", " /leading"),
    ("subject", ""),
    ("id", 25),
    ("id", {"xyz": "abc"}),
    ("subject", 1),
    ("time", 1),
    ("MyExtension", "bad"),
    ("my.extension", "bad"),
    ("my.extension", 1.5),
    ("ext", 1.5),
    ("ext", 1e3),
    ("ext", 2**31),
    ("ext", -(2**31) - 1),
    ("ext", 10**40),
    ("ext", {"a": 1}),
    ("ext", [1]),
    ("my_ext", None),
]


@pytest.mark.parametrize(("name", "value"), VALID)
def test_what_the_suite_has_as_valid_is_taken(name: str, value: Any) -> None:
    event = parse_structured(json.dumps(changed(name, value)).encode())

    kept = json.loads(event.extensions or "{}") | {
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        "subject": event.subject,
        "time": event.time,
        "source": event.source,
    }
    assert kept.get(name) == value
    assert value is not None or name not in json.loads(event.extensions or "{}"), "null is unset"


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_what_the_suite_has_as_invalid_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadEvent) as refused:
        parse_structured(json.dumps(changed(name, value)).encode())

    assert refused.value.attribute == name
    assert "byte" not in refused.value.detail or "bytes" in refused.value.detail


def test_data_and_its_base64_are_not_both_there() -> None:
    event = MINIMAL | {"data": "text", "data_base64": "eyAieHl6IjogMTIzIH0="}
    with pytest.raises(BadEvent) as refused:
        parse_structured(json.dumps(event).encode())

    assert refused.value.attribute == "data_base64"


def test_batches_of_the_suite_are_judged_event_by_event() -> None:
    def kinds(*events: Any) -> list[bool]:
        parsed = parse_batch(json.dumps(events).encode(), 1_000, 1_000_000)
        return [isinstance(one, NewEvent) for one in parsed]

    full = MINIMAL | {"datacontenttype": "text/plain", "subject": "tests"}
    assert kinds() == []
    assert kinds(MINIMAL) == [True]
    assert kinds(MINIMAL, MINIMAL) == [True, True]
    assert kinds(MINIMAL, full, MINIMAL | {"extinteger": 10}) == [True, True, True]
    assert kinds(MINIMAL, MINIMAL | {"specversion": "0.9"}) == [True, False]
    assert kinds(changed("id", ABSENT)) == [False]
    assert kinds("not an object", MINIMAL) == [False, True]


HEADERS = [
    (b"ce-specversion", b"1.0"),
    (b"ce-id", b"1"),
    (b"ce-source", b"/s"),
    (b"ce-type", b"t"),
]


@pytest.mark.parametrize(
    ("body", "as_json"),
    [
        (b'{"a": 1}', '{"a": 1}'),
        (b" [1,2]\n", " [1,2]\n"),
        (b'"text"', '"text"'),
        (b"5", "5"),
        (b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'),
        (b"text", None),
        (b"\xff\x00", None),
        (b'{"a": 1', None),
    ],
)
def test_binary_mode_without_a_content_type_is_json_where_it_can_be(
    body: bytes, as_json: str | None
) -> None:
    event = parse_binary(HEADERS, body)

    assert event.datacontenttype is None
    assert (event.data_json, event.data_binary) == (
        (as_json, None) if as_json is not None else (None, body)
    )


def test_both_modes_of_a_fact_without_a_content_type_are_one_fact() -> None:
    said = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"a": 1}}
    structured = parse_structured(json.dumps(said).encode())

    assert parse_binary(HEADERS, b'{"a": 1}').digest == structured.digest


BOM = b"\xef\xbb\xbf"


def test_a_byte_order_mark_makes_no_other_fact() -> None:
    said = json.dumps(MINIMAL | {"data": {"a": 1}}).encode()
    json_type = [*HEADERS, (b"content-type", b"application/json")]

    assert parse_structured(BOM + said).digest == parse_structured(said).digest
    (one,) = parse_batch(BOM + b"[" + said + b"]", 10, 1_000_000)
    assert isinstance(one, NewEvent)
    marked, plain = parse_binary(json_type, BOM + b"{}"), parse_binary(json_type, b"{}")
    assert (marked.digest, marked.data_json) == (plain.digest, "{}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-be"), "not JSON"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (b"PK\x03\x04", "ZIP"),
        (b"<event/>", "XML"),
        (b"", "empty"),
        (b"\xfc{}", "at its beginning"),
        (b'{"a": \xfc}', "after 6 bytes"),
    ],
)
def test_a_body_that_is_no_json_is_told_in_words(body: bytes, words: str) -> None:
    with pytest.raises(BadEvent) as refused:
        parse_structured(body)

    assert words in refused.value.detail
    assert "(byte" not in refused.value.detail
