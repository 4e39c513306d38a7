"""What a workflow is given as its event's data, by the type that it declares."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NewType

import msgspec
import pytest

from veltrix import Event, workflow
from veltrix.authoring.encoding import InvalidInput
from veltrix.pipeline.execute.coroutines.event_input import event_of
from veltrix.pipeline.execute.lease_rows import Claim

Note = NewType("Note", str)
Short = Annotated[str, msgspec.Meta(max_length=2)]


@dataclass
class Order:
    id: str


def data_of(
    type_: Any,
    *,
    data: str | None = None,
    data_binary: bytes | None = None,
    datacontenttype: str | None = None,
) -> Any:
    async def take(event: Any) -> None: ...

    take.__annotations__["event"] = Event[type_]
    function: Callable[[Event[Any]], Coroutine[Any, Any, None]] = take
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    claim = Claim(
        run_id="r", workflow="take", queue="q", generation=0, attempt=1, alone=False, crashes=0,
        code_version=None, key=None, is_cancel_requested=False, started_at=moment,
        first_claimed_at=moment, now=moment, event_id="e", source="/s", sender_id="i", type="t",
        subject=None, time=None, datacontenttype=datacontenttype, dataschema=None, data=data,
        data_binary=data_binary, extensions=None, traceparent=None, accepted_at=moment,
    )  # fmt: skip
    return event_of(claim, workflow()(function)).data


@pytest.mark.parametrize("type_", [bytes, bytes | None, Any])
def test_content_that_is_no_json_is_bytes_as_sent(type_: Any) -> None:
    given = data_of(type_, data_binary=b"\x00\xff", datacontenttype="application/avro")

    assert given == b"\x00\xff"


@pytest.mark.parametrize("type_", [str, str | None, Note, Short])
@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        ("hé".encode(), "text/plain"),
        ("hé".encode(), None),
        ("hé".encode("latin-1"), 'text/plain; charset="ISO-8859-1"'),
        ("hé".encode("utf-16"), "text/csv;header=present;charset=UTF-16"),
    ],
)
def test_text_is_read_in_the_charset_of_its_content_type(
    type_: Any, content: bytes, content_type: str | None
) -> None:
    assert data_of(type_, data_binary=content, datacontenttype=content_type) == "hé"


def test_a_json_string_is_text_too() -> None:
    assert data_of(str, data='"hi"') == "hi"
    assert data_of(bytes, data='"aGk="') == b"hi"


@pytest.mark.parametrize(
    ("type_", "content", "content_type", "words"),
    [
        (str, b"\xff", "text/plain", "is no text in utf-8"),
        (str, b"hi", "text/plain; charset=klingon", "the unknown charset 'klingon'"),
        (str, b"hi-", "text/plain; charset=punycode", "the unknown charset 'punycode'"),
        (Short, b"long", "text/plain", "length <= 2"),
        (Order, b"<o/>", "application/xml", r"content type is application/xml; .* Event\[bytes\]"),
        (Order, None, None, "the event has no data"),
        (str, None, None, "the event has no data"),
    ],
)
def test_what_does_not_fit_is_said_in_words(
    type_: Any, content: bytes | None, content_type: str | None, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        data_of(type_, data_binary=content, datacontenttype=content_type)


@pytest.mark.parametrize("type_", [Order | None, bytes | None, None])
def test_no_data_is_none_where_the_type_allows_it(type_: Any) -> None:
    assert data_of(type_) is None
