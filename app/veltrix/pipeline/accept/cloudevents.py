"""CloudEvents 1.0.2 over HTTP: requests in the three content modes become events, or say why not.

The payload is never decoded and encoded again: duplicate keys, `-0` and `1e5` stay as sent. It is
decoded once and thrown away, so that what is accepted here can be decoded by a workflow. Each item
of a batch is judged alone, also when a neighbour is not even JSON.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from veltrix.domain.attribute_values import content_of, is_json, media_type
from veltrix.domain.events import BATCH_TYPE, STRUCTURED_TYPE, NewEvent, content_digest
from veltrix.domain.give_way import give_way
from veltrix.domain.json_text import (
    BOM,
    JSON_SPACE,
    bad_json,
    has_more_elements,
    has_repeated_names,
    json_problem,
    split_array,
    value_problem,
)
from veltrix.pipeline.accept.event_checks import (
    FORBIDDEN,
    NAMED,
    BadEvent,
    Wire,
    bad,
    check_attributes,
    check_count,
    check_extension,
    check_media_type,
)

_JSON_DEFAULT = "application/json"
_WRONG_TYPE_AT = re.compile(r"at `\$\.([a-z0-9_]+)").search


class Mode(Enum):
    """The content modes of the HTTP binding."""

    BINARY = "binary"
    STRUCTURED = "structured"
    BATCH = "batch"


class BadBatch(ValueError):
    """The body is no JSON array: nothing of it could be told apart."""


class TooLarge(ValueError):
    """An event or the batch exceeds its limit: nothing of the request is taken."""


BatchItem = bytes | memoryview | msgspec.Raw

_IN_HEADERS = NAMED - {"data", "data_base64", "datacontenttype"}
_decode_wire = msgspec.json.Decoder(Wire).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


def mode_of(content_type: str | None, header_names: Iterable[bytes]) -> Mode:
    """The mode a request is in. Raises BadEvent naming `content-type` when it is in none."""
    named = media_type(content_type or "")
    if named == STRUCTURED_TYPE:
        return Mode.STRUCTURED
    if named == BATCH_TYPE:
        return Mode.BATCH
    is_other_format = named.startswith("application/cloudevents")
    if not is_other_format and any(name.startswith(b"ce-") for name in header_names):
        return Mode.BINARY
    raise BadEvent(
        "content-type",
        f"send {STRUCTURED_TYPE}, {BATCH_TYPE}, or ce-* headers with any other content type;"
        f" this request has {content_type or 'no content type'}",
    )


def parse_structured(body: bytes) -> NewEvent:
    """The event of a structured-mode body. Raises BadEvent."""
    return _parse_json(body.removeprefix(BOM))


def parse_batch(body: bytes, events_max: int, event_bytes_max: int) -> list[NewEvent | BadEvent]:
    """The events of a batched-mode body in the order sent, a BadEvent where one is not to be taken.

    Raises what `batch_items` raises.
    """
    return [parse_item(item) for item in batch_items(body, events_max, event_bytes_max)]


def batch_items(body: bytes, events_max: int, event_bytes_max: int) -> Sequence[BatchItem]:
    """The elements of a batched-mode body, each for `parse_item`.

    Raises BadBatch when the body is no JSON array, TooLarge when it has more than `events_max`
    elements or one of more than `event_bytes_max` bytes.
    """
    items: Sequence[BatchItem]
    body = body.removeprefix(BOM)
    if has_more_elements(body, events_max):
        raise TooLarge(f"more than the {events_max:,} events allowed in one batch")
    try:
        items = _decode_items(body)
    except (ValueError, RecursionError) as error:
        split = split_array(body, events_max)
        if split is None:
            why = bad_json(body, error)
            raise BadBatch(f"the body is not a JSON array of events: {why}") from None
        items = split
    if len(items) > events_max:
        raise TooLarge(f"{len(items):,} events in one batch, more than the {events_max:,} allowed")
    if len(body) > event_bytes_max:
        _check_sizes(items, event_bytes_max)
    return items


def parse_item(item: BatchItem) -> NewEvent | BadEvent:
    """The event of one element of a batch, or what is wrong with it."""
    try:
        return _parse_json(item)
    except BadEvent as bad:
        return bad


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
    wire = Wire(datacontenttype=content_type, **values)
    check_count(extensions)
    for attribute in extensions:
        check_extension(attribute, wire)
    text = _encode(extensions).decode() if extensions else None
    if content_type is None and body and json_problem(value := body.removeprefix(BOM)) is None:
        # As in the JSON format, where data without a type is JSON: SDKs send it like this.
        return _event_of(wire, text, None, msgspec.Raw(value), is_judged=True)
    return _event_of(wire, text, body or None, None)


def _parse_json(raw: BatchItem) -> NewEvent:
    extensions: str | None = None
    try:
        wire = _decode_wire(raw)
        is_whole = _is_whole(raw, _encode(wire))
    except (ValueError, RecursionError):
        wire, extensions, is_whole = _parse_members(raw)
    if not is_whole:
        give_way()
        if has_repeated_names(bytes(raw), _decode_members(raw)):
            raise BadEvent(None, "the event has an attribute twice", wire.id, wire.source)
    check_media_type(wire)
    if wire.data:
        if wire.data_base64 is not None and bytes(wire.data) != b"null":
            raise bad(wire, "data_base64", "an event has data or data_base64, not both")
        if wire.data_base64 is None:
            return _event_with_json_data(wire, extensions)
    return _event_of(wire, extensions, _base64_bytes(wire), None)


def _is_whole(raw: BatchItem, written_back: bytes) -> bool:
    """Surely no member was there twice. False says only that a closer look is needed.

    What is written back is as long as what was sent, unless there was space, an escape, null or a
    member twice; of these only the last two, and escapes, change the number of quotes.
    """
    if len(memoryview(raw)) == len(written_back):
        return True
    sent = bytes(raw)
    return sent.count(b'"') == written_back.count(b'"') and b"\\" not in sent


def _parse_members(raw: BatchItem) -> tuple[Wire, str | None, bool]:
    """The slow way, for events with extensions and for those that are wrong: member by member."""
    try:
        members = _decode_members(raw)
    except msgspec.ValidationError:
        raise BadEvent(None, "an event is a JSON object") from None
    except (ValueError, RecursionError) as error:
        raise BadEvent(None, bad_json(bytes(raw), error)) from None
    check_count(members)
    is_whole = _is_whole(raw, _encode(members))
    found = {name: members.pop(name) for name in members.keys() - NAMED}
    extensions = {name: raw for name, raw in found.items() if bytes(raw) != b"null"}  # unset
    try:
        wire = _decode_wire(_encode(members))
    except (ValueError, RecursionError) as wrong:
        raise _wrong_member(members, wrong) from None
    for name in sorted(found):
        check_extension(name, wire, found[name])
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


def _event_with_json_data(wire: Wire, extensions: str | None) -> NewEvent:
    """Of a `data` member: a JSON value, or text when datacontenttype says it is no JSON (3.1.1)."""
    if wire.datacontenttype is None or is_json(wire.datacontenttype):
        return _event_of(wire, extensions, None, wire.data)
    try:
        return _event_of(
            wire, extensions, content_of(_decode_text(wire.data), wire.datacontenttype), None
        )
    except ValueError as error:
        if isinstance(error, BadEvent):
            raise
        raise bad(
            wire,
            "data",
            f"data of type {wire.datacontenttype} must be a JSON string, or bytes in data_base64",
        ) from None


def _event_of(
    wire: Wire,
    extensions: str | None,
    content: bytes | None,
    value: msgspec.Raw | None,
    *,
    is_judged: bool = False,
) -> NewEvent:
    """The event, with `content` bytes of its datacontenttype, or a JSON `value`, or neither.

    `is_judged`: nothing is wrong with the value.
    """
    check_attributes(wire)
    text, problem_of = (None, json_problem) if value is None else (bytes(value), value_problem)
    if text is None and content is not None and is_json(wire.datacontenttype or ""):
        text, content = content.removeprefix(BOM), None
    if text is not None and not is_judged and (problem := problem_of(text)):
        raise bad(wire, "data", f"data is {problem}")
    source, id_, type_ = wire.source or "", wire.id or "", wire.type or ""  # none is empty
    digest, digest_as_sent = _digests(wire, text, content)
    return NewEvent(
        source=source,
        id=id_,
        type=type_,
        digest=digest,
        digest_as_sent=digest_as_sent,
        subject=wire.subject,
        time=wire.time,
        datacontenttype=wire.datacontenttype,
        dataschema=wire.dataschema,
        data_json=None if text is None else text.decode(),
        data_binary=content,
        extensions=extensions,
        traceparent=wire.traceparent,
    )


def _digests(wire: Wire, text: bytes | None, content: bytes | None) -> tuple[bytes, bytes | None]:
    """The digest of what the event says, and of how it was sent, if that is another one.

    An SDK adds `charset=utf-8` or sends a file with its last newline in binary mode, and neither in
    structured mode: of JSON, space around the value and parameters of the type say nothing.
    """
    type_ = as_sent = wire.datacontenttype
    data = said = text or content or b""
    if text is not None:
        as_sent = type_ or _JSON_DEFAULT  # what its absence means
        type_, said = media_type(as_sent), data.strip(JSON_SPACE)
    digest = content_digest(wire.type or "", wire.subject, type_, wire.dataschema, said)
    if type_ == as_sent and len(said) == len(data):
        return digest, None
    return digest, content_digest(wire.type or "", wire.subject, as_sent, wire.dataschema, data)


def _base64_bytes(wire: Wire) -> bytes | None:
    if wire.data_base64 is None:
        return None
    try:
        return b64decode(wire.data_base64, validate=True)
    except (binascii.Error, ValueError):
        raise bad(wire, "data_base64", "data_base64 is not valid Base64") from None


def _header_text(name: str, raw: bytes) -> str:
    """A header's value: quotes removed, percent-decoded once, as UTF-8 (HTTP binding, 3.1.3.2)."""
    if len(raw) >= 2 and raw[:1] == raw[-1:] == b'"':
        raw = re.sub(rb"\\(.)", rb"\1", raw[1:-1], flags=re.DOTALL)
    try:
        text = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise BadEvent(name, f"the header ce-{name} is not percent-encoded UTF-8") from None
    if not text.isprintable() and FORBIDDEN(text):
        raise BadEvent(name, f"{name} holds a control character")
    return text


def _check_sizes(items: Sequence[BatchItem], event_bytes_max: int) -> None:
    for index, item in enumerate(items):
        if (size := len(memoryview(item))) > event_bytes_max:
            raise TooLarge(
                f"event {index} of the batch has {size:,} bytes, more than the"
                f" {event_bytes_max:,} allowed"
            )
