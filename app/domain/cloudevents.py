"""CloudEvents 1.0.2 over HTTP: requests in the three content modes become events, or say why not.

The payload is never decoded and encoded again: duplicate keys, `-0` and `1e5` stay as sent. It is
decoded once and thrown away, so that what is accepted here can be decoded by a workflow. Each item
of a batch is judged alone, also when a neighbour is not even JSON.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from datetime import date
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from app.domain.events import OWN_SOURCE_PREFIXES, NewEvent, content_digest
from app.domain.json_text import bad_json, has_repeated_names, json_problem, split_array

KEY_BYTES_MAX = 1_024  # source, id, type: two of them fit into an index row (at most 2,704 bytes)
ATTRIBUTE_BYTES_MAX = 4_096  # each other attribute that CloudEvents names
SPECVERSION = "1.0"
STRUCTURED_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"

_JSON_DEFAULT = "application/json"
_EXTENSION_NAME = re.compile(r"[a-z0-9]+").fullmatch
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search  # CloudEvents 1.0.2, "String"
_TIME = re.compile(
    r"([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]"
    r":(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
).fullmatch  # RFC 3339, section 5.6
_WRONG_TYPE_AT = re.compile(r"at `\$\.([a-z0-9_]+)").search


class Mode(Enum):
    """The content modes of the HTTP binding."""

    BINARY = "binary"
    STRUCTURED = "structured"
    BATCH = "batch"


class BadEvent(ValueError):
    """This event cannot be taken. `attribute` names what is wrong, if it is one.

    `id` and `source` are the event's, as far as they could be read.
    """

    def __init__(
        self, attribute: str | None, detail: str, id_: str | None = None, source: str | None = None
    ) -> None:
        super().__init__(detail)
        self.attribute, self.detail, self.id, self.source = attribute, detail, id_, source


class BadBatch(ValueError):
    """The body is no JSON array: nothing of it could be told apart."""


class TooLarge(ValueError):
    """An event or the batch exceeds its limit: nothing of the request is taken."""


class _Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """The attributes CloudEvents names, in the JSON format. null means absent (section 2.2)."""

    specversion: str | None = None
    id: str | None = None
    source: str | None = None
    type: str | None = None
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    traceparent: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None


_NAMED = frozenset(_Wire.__struct_fields__)
_IN_HEADERS = _NAMED - {"data", "data_base64", "datacontenttype"}
_REQUIRED = ("specversion", "id", "source", "type")
_decode_wire = msgspec.json.Decoder(_Wire).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def mode_of(content_type: str | None, header_names: Iterable[bytes]) -> Mode:
    """The mode a request is in. Raises BadEvent naming `content-type` when it is in none."""
    media_type = _media_type(content_type or "")
    if media_type == STRUCTURED_TYPE:
        return Mode.STRUCTURED
    if media_type == BATCH_TYPE:
        return Mode.BATCH
    is_other_format = media_type.startswith("application/cloudevents")
    if not is_other_format and any(name.startswith(b"ce-") for name in header_names):
        return Mode.BINARY
    raise BadEvent(
        "content-type",
        f"send {STRUCTURED_TYPE}, {BATCH_TYPE}, or ce-* headers with any other content type;"
        f" this request has {content_type or 'no content type'}",
    )


def parse_structured(body: bytes) -> NewEvent:
    """The event of a structured-mode body. Raises BadEvent."""
    return _parse_json(body)


def parse_batch(body: bytes, events_max: int, event_bytes_max: int) -> list[NewEvent | BadEvent]:
    """The events of a batched-mode body in the order sent, a BadEvent where one is not to be taken.

    Raises BadBatch when the body is no JSON array, TooLarge when it has more than `events_max`
    elements or one of more than `event_bytes_max` bytes.
    """
    items: Sequence[bytes | memoryview | msgspec.Raw]
    try:
        items = _decode_items(body)
    except (ValueError, RecursionError) as error:
        split = split_array(body)
        if split is None:
            why = bad_json(body, error)
            raise BadBatch(f"the body is not a JSON array of events: {why}") from None
        items = split
    if len(items) > events_max:
        raise TooLarge(f"{len(items):,} events in one batch, more than the {events_max:,} allowed")
    if len(body) > event_bytes_max:
        _check_sizes(items, event_bytes_max)
    events: list[NewEvent | BadEvent] = []
    for item in items:
        try:
            events.append(_parse_json(item))
        except BadEvent as bad:
            events.append(bad)
    return events


def parse_binary(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> NewEvent:
    """The event of a binary-mode request: lower-case header names, raw values. Raises BadEvent."""
    values: dict[str, Any] = {}
    extensions: dict[str, str] = {}
    content_type: str | None = None
    for name, raw in headers:
        if name == b"content-type":
            content_type = raw.decode("latin-1")
        elif name.startswith(b"ce-"):
            attribute = name[3:].decode("latin-1")
            into = values if attribute in _IN_HEADERS else extensions
            if attribute in into:
                raise BadEvent(attribute, f"the header ce-{attribute} is there twice")
            into[attribute] = _header_text(attribute, raw)
    wire = _Wire(datacontenttype=content_type, **values)
    for attribute in extensions:
        _check_extension(attribute, wire)
    text = _encode(extensions).decode() if extensions else None
    return _event_of(wire, text, body or None, None)


def _parse_json(raw: bytes | memoryview | msgspec.Raw) -> NewEvent:
    extensions: str | None = None
    try:
        wire = _decode_wire(raw)
        is_whole = _is_whole(raw, _encode(wire))
    except (ValueError, RecursionError) as error:
        wire, extensions, is_whole = _parse_members(raw, error)
    if not is_whole and has_repeated_names(bytes(raw)):
        raise BadEvent(None, "the event has an attribute twice", wire.id, wire.source)
    if wire.data:
        if wire.data_base64 is not None and bytes(wire.data) != b"null":
            raise _bad(wire, "data_base64", "an event has data or data_base64, not both")
        if wire.data_base64 is None:
            return _event_with_json_data(wire, extensions)
    return _event_of(wire, extensions, _base64_bytes(wire), None)


def _is_whole(raw: bytes | memoryview | msgspec.Raw, written_back: bytes) -> bool:
    """Surely no member was there twice. False says only that a closer look is needed.

    What is written back is as long as what was sent, unless there was space, an escape, null or a
    member twice; of these only the last two, and escapes, change the number of quotes.
    """
    if len(memoryview(raw)) == len(written_back):
        return True
    sent = bytes(raw)
    return sent.count(b'"') == written_back.count(b'"') and b"\\" not in sent


def _parse_members(
    raw: bytes | memoryview | msgspec.Raw, error: Exception
) -> tuple[_Wire, str | None, bool]:
    """The slow way, for events with extensions and for those that are wrong: member by member."""
    try:
        members = _decode_members(raw)
    except msgspec.ValidationError:
        raise BadEvent(None, "an event is a JSON object") from None
    except (ValueError, RecursionError):
        raise BadEvent(None, bad_json(bytes(raw), error)) from None
    is_whole = _is_whole(raw, _encode(members))
    extensions = {name: members.pop(name) for name in members.keys() - _NAMED}
    try:
        wire = _decode_wire(_encode(members))
    except (ValueError, RecursionError) as wrong:
        raise _wrong_member(members, wrong) from None
    for name in sorted(extensions):
        _check_extension(name, wire, extensions[name])
    ordered = {name: extensions[name] for name in sorted(extensions)}
    return wire, _encode(ordered).decode() if ordered else None, is_whole


def _wrong_member(members: dict[str, msgspec.Raw], error: Exception) -> BadEvent:
    found = _WRONG_TYPE_AT(str(error))
    id_, source = _readable(members.get("id")), _readable(members.get("source"))
    if found is None:
        return BadEvent(None, bad_json(b"", error), id_, source)
    return BadEvent(found[1], f"{found[1]} must be a string", id_, source)


def _readable(raw: msgspec.Raw | None) -> str | None:
    try:
        return _decode_text(raw) if raw else None
    except ValueError:
        return None


def _event_with_json_data(wire: _Wire, extensions: str | None) -> NewEvent:
    """Of a `data` member: a JSON value, or text when datacontenttype says it is no JSON (3.1.1)."""
    if wire.datacontenttype is None or is_json(wire.datacontenttype):
        return _event_of(wire, extensions, None, wire.data)
    try:
        return _event_of(wire, extensions, _decode_text(wire.data).encode(), None)
    except ValueError as error:
        if isinstance(error, BadEvent):
            raise
        raise _bad(
            wire,
            "data",
            f"data of type {wire.datacontenttype} must be a JSON string, or bytes in data_base64",
        ) from None


def _event_of(
    wire: _Wire, extensions: str | None, content: bytes | None, value: msgspec.Raw | None
) -> NewEvent:
    """The event, with `content` bytes of its datacontenttype, or a JSON `value`, or neither."""
    _check_attributes(wire)
    data_json: str | None = None
    if value is None and content is not None and is_json(wire.datacontenttype or ""):
        value, content = msgspec.Raw(content), None
    if value is not None:
        data_json = _checked_json(wire, value)
    digest_type = wire.datacontenttype
    if digest_type is None and data_json is not None:
        digest_type = _JSON_DEFAULT  # what its absence means; so the HTTP mode makes no difference
    source, id_, type_ = wire.source or "", wire.id or "", wire.type or ""  # none is empty
    return NewEvent(
        source=source,
        id=id_,
        type=type_,
        digest=content_digest(
            type_, wire.subject, digest_type, wire.dataschema, value or content or b""
        ),
        subject=wire.subject,
        time=wire.time,
        datacontenttype=wire.datacontenttype,
        dataschema=wire.dataschema,
        data_json=data_json,
        data_binary=content,
        extensions=extensions,
        traceparent=wire.traceparent,
    )


def _checked_json(wire: _Wire, value: msgspec.Raw) -> str:
    raw = bytes(value)
    if problem := json_problem(raw):
        raise _bad(wire, "data", f"data is {problem}")
    return raw.decode()


def _check_attributes(wire: _Wire) -> None:
    source, id_, type_ = wire.source, wire.id, wire.type
    if not source or not id_ or not type_ or wire.specversion != SPECVERSION:
        _check_required(wire)
    else:
        key = source + id_ + type_
        if len(key) > KEY_BYTES_MAX or not key.isascii() or not key.isprintable():
            for name in ("source", "id", "type"):
                _check_text(wire, name, getattr(wire, name), KEY_BYTES_MAX)
    if source and source.startswith(OWN_SOURCE_PREFIXES):
        raise _bad(
            wire, "source", f"sources below {' and '.join(OWN_SOURCE_PREFIXES)} are reserved"
        )
    for name in ("subject", "datacontenttype", "dataschema", "traceparent"):
        value = getattr(wire, name)
        if value is not None:
            _check_text(wire, name, value, ATTRIBUTE_BYTES_MAX)
    if wire.time is not None and not is_time(wire.time):
        raise _bad(wire, "time", "time must be an RFC 3339 timestamp, as 2026-01-31T12:00:00Z")


def _check_required(wire: _Wire) -> None:
    for name in _REQUIRED:
        if not getattr(wire, name):
            raise _bad(wire, name, f"{name} is missing or empty")
    if wire.specversion != SPECVERSION:
        raise _bad(wire, "specversion", f"specversion must be {SPECVERSION}")


def _check_text(wire: _Wire, name: str, value: str, bytes_max: int) -> None:
    if not value.isprintable() and _FORBIDDEN(value):
        raise _bad(wire, name, f"{name} holds a control character or half a surrogate pair")
    if len(value) > bytes_max or (not value.isascii() and len(value.encode()) > bytes_max):
        raise _bad(wire, name, f"{name} has more than {bytes_max:,} bytes")


def _check_extension(name: str, wire: _Wire, value: msgspec.Raw | None = None) -> None:
    if name in _NAMED:  # in binary mode: data, data_base64, datacontenttype are no headers
        raise _bad(wire, name, f"there is no header ce-{name} in binary mode")
    if not _EXTENSION_NAME(name):
        shown = name.encode("ascii", "backslashreplace").decode()[:100]
        raise _bad(wire, shown, "attribute names are made of the letters a to z and of digits")
    if value is None:
        return
    raw = bytes(value)
    if raw[:1] in (b"{", b"["):
        raise _bad(wire, name, f"the extension {name} must be a string, a number or a boolean")
    if problem := json_problem(raw):
        raise _bad(wire, name, f"the extension {name} is {problem}")


def _base64_bytes(wire: _Wire) -> bytes | None:
    if wire.data_base64 is None:
        return None
    try:
        return b64decode(wire.data_base64, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(wire, "data_base64", "data_base64 is not valid Base64") from None


def _header_text(name: str, raw: bytes) -> str:
    """A header's value: quotes removed, percent-decoded once, as UTF-8 (HTTP binding, 3.1.3.2)."""
    if len(raw) >= 2 and raw[:1] == raw[-1:] == b'"':
        raw = re.sub(rb"\\(.)", rb"\1", raw[1:-1], flags=re.DOTALL)
    try:
        text = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise BadEvent(name, f"the header ce-{name} is not percent-encoded UTF-8") from None
    if not text.isprintable() and _FORBIDDEN(text):
        raise BadEvent(name, f"{name} holds a control character")
    return text


def _bad(wire: _Wire, attribute: str, detail: str) -> BadEvent:
    return BadEvent(attribute, detail, wire.id, wire.source)


def _check_sizes(items: Sequence[bytes | memoryview | msgspec.Raw], event_bytes_max: int) -> None:
    for index, item in enumerate(items):
        if (size := len(memoryview(item))) > event_bytes_max:
            raise TooLarge(
                f"event {index} of the batch has {size:,} bytes, more than the"
                f" {event_bytes_max:,} allowed"
            )


@lru_cache(maxsize=1_024)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


@lru_cache(maxsize=1_024)
def is_json(content_type: str) -> bool:
    """Whether content of this type is JSON: `application/json`, `text/json` or `*/*+json`."""
    media_type = _media_type(content_type)
    return media_type in ("application/json", "text/json") or media_type.endswith("+json")


def is_time(text: str) -> bool:
    """Whether this is an RFC 3339 timestamp on a day that exists."""
    found = _TIME(text)
    if found is None:
        return False
    year, month, day = int(found[1]), int(found[2]), int(found[3])
    if day <= 28:
        return True
    try:
        date(year or 4, month, day)  # year 0, which Python does not know, was a leap year as 4 was
    except ValueError:
        return False
    return True
