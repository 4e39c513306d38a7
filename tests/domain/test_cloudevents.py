"""Requests become events, exactly as sent, or say what is wrong with which attribute."""

import json
from base64 import b64encode
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veltrix.domain.attribute_values import is_time, is_uri
from veltrix.domain.events import NewEvent
from veltrix.pipeline.accept.cloudevents import (
    BadBatch,
    Mode,
    TooLarge,
    mode_of,
    parse_batch,
    parse_binary,
    parse_structured,
)
from veltrix.pipeline.accept.event_checks import BadEvent

REQUIRED = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
EVENT_BYTES_MAX = 1024 * 1024


def event(**changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (REQUIRED | changes).items() if v is not ...}


def with_data(text: str, **attributes: Any) -> bytes:
    """An event in the JSON format whose data is this text, as it is."""
    return (json.dumps(event(**attributes))[:-1] + f', "data": {text}}}').encode(
        "utf-8", "surrogatepass"
    )


def batch(*items: bytes) -> list[NewEvent | BadEvent]:
    return parse_batch(b"[" + b",".join(items) + b"]", 1_000, EVENT_BYTES_MAX)


def refusal(body: bytes | dict[str, Any]) -> BadEvent:
    with pytest.raises(BadEvent) as refused:
        parse_structured(body if isinstance(body, bytes) else json.dumps(body).encode())
    return refused.value


# What is kept


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        "-0",
        "1e5",
        "1.10",
        '{ "a" :  [1 ,2] }',
        '"\\u0000"',
        '"\\u00e9\\/"',
        "18446744073709551616",
        "null",
        '"é🛫"',
        "[" * 400 + "]" * 400,
    ],
)
def test_data_is_kept_as_sent(text: str) -> None:
    assert parse_structured(with_data(text)).data_json == text
    assert parse_structured(with_data(text, ext="x")).data_json == text


def test_attributes_and_extensions_are_kept_as_sent() -> None:
    sent = event(
        subject="a b",
        time="2026-01-31T12:00:00.123456789+01:00",
        dataschema="urn:x",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate="a=b",
        sequence=7,
        flag=True,
    )
    parsed = parse_structured(json.dumps(sent).encode())

    assert (parsed.source, parsed.id, parsed.type) == ("/s", "1", "t")
    assert parsed.subject == "a b"
    assert parsed.time == sent["time"]
    assert parsed.dataschema == "urn:x"
    assert parsed.traceparent == sent["traceparent"]
    assert json.loads(parsed.extensions or "") == {
        "flag": True,
        "sequence": 7,
        "tracestate": "a=b",
    }
    assert parsed.data_json is None
    assert parsed.data_binary is None


def test_null_attributes_are_absent() -> None:
    parsed = parse_structured(json.dumps(event(subject=None, time=None, data_base64=None)).encode())

    assert parsed.subject is None
    assert parsed.time is None


def test_text_that_is_no_json_is_kept_as_its_bytes() -> None:
    parsed = parse_structured(with_data('"<a>é</a>"', datacontenttype="application/xml"))

    assert parsed.data_binary == "<a>é</a>".encode()
    assert parsed.data_json is None


def test_the_digest_covers_content_and_not_trace_or_extensions() -> None:
    plain = parse_structured(with_data("1")).digest

    assert parse_structured(with_data("1", traceparent="x", tracestate="y")).digest == plain
    assert parse_structured(with_data("1", time="2026-01-31T12:00:00Z")).digest == plain
    for change in ({"type": "u"}, {"subject": "s"}, {"dataschema": "urn:y"}):
        assert parse_structured(with_data("1", **change)).digest != plain
    assert parse_structured(with_data("2")).digest != plain


def test_the_mode_makes_no_other_digest() -> None:
    head = [
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"1"),
        (b"ce-source", b"/s"),
        (b"ce-type", b"t"),
    ]

    def binary(content_type: bytes, body: bytes) -> NewEvent:
        return parse_binary([*head, (b"content-type", content_type)], body)

    plain = parse_structured(with_data('{"a": 1}'))
    same = [
        binary(b"application/json", b'{"a": 1}\r\n'),
        binary(b"application/json; charset=utf-8", b' {"a": 1}'),
        parse_structured(with_data('{"a": 1}', datacontenttype="application/json;charset=utf-8")),
    ]
    others = [
        binary(b"application/json", b'{"a":1}'),
        binary(b"text/plain; charset=utf-8", b'{"a": 1}'),
        binary(b"text/plain", b'{"a": 1}'),
        binary(b"text/plain", b'{"a": 1}\n'),
    ]

    assert {event.digest for event in same} == {plain.digest}
    assert plain.digest_as_sent is None
    assert None not in {event.digest_as_sent for event in same}
    assert len({event.digest for event in [plain, *others]}) == 5
    assert same[0].data_json == '{"a": 1}\r\n'


# What is refused, and by which name


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
@pytest.mark.parametrize("value", [..., "", None])
def test_a_required_attribute_that_is_missing_or_empty_is_named(name: str, value: Any) -> None:
    bad = refusal(event(**{name: value}))

    assert bad.attribute == name


@pytest.mark.parametrize(
    ("changes", "attribute"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": 5}, "id"),
        ({"source": {}}, "source"),
        ({"time": "yesterday"}, "time"),
        ({"time": "2026-02-30T00:00:00Z"}, "time"),
        ({"time": "2026-01-31T12:00:00"}, "time"),
        ({"data": 1, "data_base64": "AA=="}, "data_base64"),
        ({"data_base64": "A"}, "data_base64"),
        ({"data_base64": "bm90IGpzb24=", "datacontenttype": "application/json"}, "data"),
        ({"data": {}, "datacontenttype": "text/plain"}, "data"),
        ({"id": "a\x00"}, "id"),
        ({"type": "a\nb"}, "type"),
        ({"subject": "\x00"}, "subject"),
        ({"id": "x" * 1025}, "id"),
        ({"source": "é" * 513}, "source"),
        ({"subject": "x" * 4097}, "subject"),
        ({"Upper": "x"}, "Upper"),
        ({"ext": {"a": 1}}, "ext"),
        ({"source": "/veltrix/starts/w"}, "source"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], attribute: str) -> None:
    assert refusal(event(**changes)).attribute == attribute


@pytest.mark.parametrize(
    "text",
    [
        '"\\ud800"',
        "1e400",
        "[" * 1000 + "]" * 1000,
        "9" * 5000,
        '"\udc00"',
        '"\x01"',
        '{"a"}',
        "NaN",
    ],
)
def test_data_no_workflow_could_decode_is_refused_alone(text: str) -> None:
    answers = batch(with_data("1"), with_data(text, id="2"), with_data("3", id="3"))

    assert [type(answer) for answer in answers] == [NewEvent, BadEvent, NewEvent]


def test_an_attribute_given_twice_is_refused_and_data_is_left_alone() -> None:
    twice = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","id":"2","data":{"a":1,"a":1}}'

    assert "twice" in refusal(twice).detail
    assert "twice" in refusal(twice.replace(b",", b", ")).detail
    assert "twice" in refusal(twice.replace(b'"id":"2"', b'"i\\u0064":"2"')).detail
    assert parse_structured(twice.replace(b'"id":"2",', b"")).data_json == '{"a":1,"a":1}'


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"5", b"null", b"[]", b'"x"', b"{}x"])
def test_a_body_that_is_no_event_is_refused(body: bytes) -> None:
    refusal(body)


def test_a_refusal_carries_the_identity_it_could_read() -> None:
    bad = refusal(event(time="x", id="7", source="/me"))

    assert (bad.id, bad.source) == ("7", "/me")


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("2026-01-31T12:00:00Z", True),
        ("2026-01-31t12:00:00z", True),
        ("2016-12-31T23:59:60Z", True),
        ("0000-02-29T00:00:00Z", True),
        ("2024-02-29T00:00:00+23:59", True),
        ("2026-13-01T00:00:00Z", False),
        ("2026-01-01T24:00:00Z", False),
        ("2026-04-31T00:00:00Z", False),
        ("٢٠٢٦-01-01T00:00:00Z", False),
        ("2026-01-01T00:00:00.Z", False),
        ("2026-01-01", False),
    ],
)
def test_time_is_rfc_3339(text: str, is_valid: bool) -> None:
    assert is_time(text) is is_valid


# Batches


def test_one_bad_event_hides_no_neighbour() -> None:
    for item in (b"5", b"{]", b'{"id":"\\ud800"}', b'{"id":"\xff"}', b"", b"[[]]", b'{"a":tru}'):
        answers = batch(with_data("1"), item, with_data("3", id="3"))

        assert [isinstance(a, NewEvent) for a in answers] == [True, False, True], item


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b'["]', b"[]]", b"nope", b"[1}", b'[1] "'])
def test_a_body_that_is_no_array_is_refused_whole(body: bytes) -> None:
    with pytest.raises(BadBatch):
        parse_batch(body, 1_000, EVENT_BYTES_MAX)


def test_an_empty_batch_is_a_batch() -> None:
    assert parse_batch(b" [ ] ", 1_000, EVENT_BYTES_MAX) == []


def test_limits_refuse_the_whole_batch() -> None:
    with pytest.raises(TooLarge, match="2 events"):
        parse_batch(b"[{},{}]", 1, EVENT_BYTES_MAX)
    with pytest.raises(TooLarge, match="event 1"):
        parse_batch(b"[1," + with_data('"' + "x" * 500 + '"') + b"]", 10, 400)


# Binary mode


def headers_of(**attributes: str) -> list[tuple[bytes, bytes]]:
    given = {"ce-" + k: v for k, v in (REQUIRED | attributes).items() if k != "datacontenttype"}
    found = [(name.encode(), value.encode()) for name, value in given.items()]
    if "datacontenttype" in attributes:
        found.append((b"content-type", attributes["datacontenttype"].encode()))
    return found


def test_headers_are_percent_decoded_and_unquoted_once() -> None:
    parsed = parse_binary(headers_of(subject='"Euro %E2%82%AC \\"x\\" %2541"', myext="1"), b"")

    assert parsed.subject == 'Euro € "x" %41'
    assert parsed.extensions == '{"myext":"1"}'


def test_content_is_json_or_bytes_as_its_type_says() -> None:
    as_json = parse_binary(headers_of(datacontenttype="application/vnd.x+json; a=b"), b"[1 ]")
    as_bytes = parse_binary(headers_of(datacontenttype="image/png"), b"\x89PNG\x00")

    assert as_json.data_json == "[1 ]"
    assert as_bytes.data_binary == b"\x89PNG\x00"
    assert as_bytes.data_json is None


@pytest.mark.parametrize(
    ("headers", "body", "attribute"),
    [
        (headers_of(id=""), b"", "id"),
        (headers_of(subject="%ff"), b"", "subject"),
        (headers_of(subject="%00"), b"", "subject"),
        ([*headers_of(), (b"ce-id", b"2")], b"", "id"),
        (headers_of(data="x"), b"", "data"),
        ([*headers_of(), (b"ce-datacontenttype", b"x")], b"", "datacontenttype"),
        (headers_of(datacontenttype="application/json"), b"{", "data"),
        (headers_of(datacontenttype="application/json"), b"\xff", "data"),
        ([*headers_of(), (b"ce-a_b", b"x")], b"", "a_b"),
    ],
)
def test_wrong_headers_are_named(
    headers: list[tuple[bytes, bytes]], body: bytes, attribute: str
) -> None:
    with pytest.raises(BadEvent) as refused:
        parse_binary(headers, body)

    assert refused.value.attribute == attribute


def test_the_mode_is_told_by_the_content_type() -> None:
    assert mode_of("Application/CloudEvents+JSON; charset=utf-8", []) is Mode.STRUCTURED
    assert mode_of("application/cloudevents-batch+json", []) is Mode.BATCH
    assert mode_of("application/json", [b"ce-id"]) is Mode.BINARY
    for content_type in (None, "application/json", "application/cloudevents+xml"):
        with pytest.raises(BadEvent) as refused:
            mode_of(content_type, [b"host"])

        assert refused.value.attribute == "content-type"


# For every event

_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda text: len(text.encode()) <= 1_024
)
_URI = _TEXT.filter(is_uri)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)
_ATTRIBUTES = st.fixed_dictionaries(
    {"id": _TEXT, "source": _URI, "type": _TEXT},
    optional={
        "subject": _TEXT,
        "dataschema": _URI,
        "traceparent": _TEXT,
        "time": st.datetimes(timezones=st.timezones()).map(
            lambda t: t.replace(tzinfo=None).isoformat() + "Z"
        ),
        "partitionkey": _TEXT,
    },
)


@given(_ATTRIBUTES, _JSON, st.booleans(), st.booleans())
def test_the_three_modes_give_the_same_event(
    attributes: dict[str, str], data: Any, is_ascii: bool, is_spaced: bool
) -> None:
    separators = (", ", ": ") if is_spaced else (",", ":")

    def dumps(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=is_ascii, separators=separators).encode(
            "utf-8", "surrogatepass"
        )

    sent = {"specversion": "1.0", "datacontenttype": "application/json"} | attributes
    structured = parse_structured(dumps(sent | {"data": data}))
    (batched,) = parse_batch(dumps([sent | {"data": data}]), 10, EVENT_BYTES_MAX)
    encoded = b64encode(dumps(data)).decode()
    in_base64 = parse_structured(dumps(sent | {"data_base64": encoded}))
    names = [(f"ce-{k}".encode(), quote(v).encode()) for k, v in attributes.items()]
    in_headers = parse_binary(
        [*names, (b"ce-specversion", b"1.0"), (b"content-type", b"application/json")], dumps(data)
    )

    assert batched == structured
    assert in_base64 == structured
    for parsed in (structured, in_headers):
        assert parsed.data_json == dumps(data).decode()
        assert json.loads(parsed.extensions or "{}") == {
            k: v for k, v in attributes.items() if k == "partitionkey"
        }
        for name in ("id", "source", "type", "subject", "time", "dataschema", "traceparent"):
            assert getattr(parsed, name) == attributes.get(name)
    assert in_headers.digest == structured.digest


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_unexpected(body: bytes) -> None:
    for prefix, suffix in ((b"", b""), (b'{"specversion":"1.0","id":', b"}"), (b"[", b"]")):
        with suppress(BadEvent):
            parse_structured(prefix + body + suffix)
        with suppress(BadBatch, TooLarge):
            parse_batch(prefix + body + suffix, 1_000, 1_000)
    headers = [(b"ce-id", body), (b"ce-" + body[:3], body), (b"content-type", body)]
    with suppress(BadEvent):
        parse_binary(headers, body)


@given(st.lists(st.binary(max_size=12), max_size=4), st.sampled_from([b"", b" ", b"\n"]))
def test_a_batch_never_loses_an_event_among_bad_ones(between: list[bytes], space: bytes) -> None:
    clean = [item for item in between if not set(item) & set(b'[]{},"')]
    items = [*clean, with_data('{"k": "[}, \\" {"}')]
    answers = parse_batch(space + b"[" + b",".join(items) + b"]" + space, 1_000, EVENT_BYTES_MAX)

    assert len(answers) == len(items)
    assert isinstance(answers[-1], NewEvent)


@pytest.mark.parametrize("charset", ["utf-8", "ISO-8859-1", "utf-16"])
def test_text_in_json_is_the_same_content_as_the_body_in_its_charset(charset: str) -> None:
    content_type = f"text/plain; charset={charset}"
    headers = [(b"content-type", content_type.encode())] + [
        (f"ce-{name}".encode(), str(value).encode()) for name, value in REQUIRED.items()
    ]

    binary = parse_binary(headers, "né".encode(charset))
    structured = parse_structured(with_data('"n\\u00e9"', datacontenttype=content_type))

    assert structured.data_binary == binary.data_binary == "né".encode(charset)
    assert structured.digest == binary.digest


def test_text_that_its_charset_cannot_say_is_kept_as_utf_8() -> None:
    for charset in ("latin-1", "klingon", "punycode", "IDNA", "base64", ""):
        of_type = f"text/plain; charset={charset}"

        kept = parse_structured(with_data('"\\u20ac"', datacontenttype=of_type))

        assert kept.data_binary == "€".encode()
