"""The attributes of a CloudEvent, and what each may be: what is wrong is said of one by name."""

import re
from collections.abc import Sized

import msgspec

from veltrix.domain.attribute_values import is_integer, is_media_type, is_time, is_uri
from veltrix.domain.events import (
    CANARY_SOURCE,
    CANARY_TYPE_PREFIX,
    OWN_SOURCE_PREFIXES,
    is_half_canary,
)
from veltrix.domain.json_text import json_problem

KEY_BYTES_MAX = 1_024  # source, id, type: two of them fit into an index row (at most 2,704 bytes)
ATTRIBUTE_BYTES_MAX = 4_096  # each other attribute that CloudEvents names
EXTENSIONS_MAX = 100  # each is looked at: a megabyte of them takes a second
SPECVERSION = "1.0"

_EXTENSION_NAME = re.compile(r"[a-z0-9]+").fullmatch
_CONSTANTS = frozenset({b"true", b"false", b"null"})
FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search  # CloudEvents 1.0.2, "String"


class BadEvent(ValueError):
    """This event cannot be taken. `attribute` names what is wrong, if it is one.

    `id` and `source` are the event's, as far as they could be read.
    """

    def __init__(
        self, attribute: str | None, detail: str, id_: str | None = None, source: str | None = None
    ) -> None:
        super().__init__(detail)
        self.attribute, self.detail, self.id, self.source = attribute, detail, id_, source


class Wire(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
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


NAMED = frozenset(Wire.__struct_fields__)
_REQUIRED = ("specversion", "id", "source", "type")


def bad(wire: Wire, attribute: str, detail: str) -> BadEvent:
    """The attribute is wrong, of this event."""
    return BadEvent(attribute, detail, wire.id, wire.source)


def check_attributes(wire: Wire) -> None:
    """Raise BadEvent for the first attribute that is not what CloudEvents 1.0.2 has."""
    source, id_, type_ = wire.source, wire.id, wire.type
    if not source or not id_ or not type_ or wire.specversion != SPECVERSION:
        _check_required(wire)
    else:
        key = source + id_ + type_
        if len(key) > KEY_BYTES_MAX or not key.isascii() or not key.isprintable():
            for name in ("source", "id", "type"):
                _check_text(wire, name, getattr(wire, name), KEY_BYTES_MAX)
    if source and source.startswith(OWN_SOURCE_PREFIXES):
        raise bad(wire, "source", f"sources below {' and '.join(OWN_SOURCE_PREFIXES)} are reserved")
    if source and type_ and is_half_canary(source, type_):
        told = f"the source {CANARY_SOURCE} and types below {CANARY_TYPE_PREFIX} are the canary's"
        raise bad(wire, "type" if source == CANARY_SOURCE else "source", told)
    if source and " " in source and not is_uri(source):
        raise bad(wire, "source", "source must be a URI-reference, which has no spaces")
    for name in ("subject", "datacontenttype", "dataschema", "traceparent"):
        value = getattr(wire, name)
        if value is not None:
            _check_text(wire, name, value, ATTRIBUTE_BYTES_MAX)
    if wire.subject == "":
        raise bad(wire, "subject", "subject must not be empty: leave it out")
    if wire.dataschema is not None and not is_uri(wire.dataschema):
        raise bad(wire, "dataschema", "dataschema must be a URI")
    if wire.time is not None and not is_time(wire.time):
        raise bad(wire, "time", "time must be an RFC 3339 timestamp, as 2026-01-31T12:00:00Z")


def _check_required(wire: Wire) -> None:
    for name in _REQUIRED:
        if not getattr(wire, name):
            raise bad(wire, name, f"{name} is missing or empty")
    if wire.specversion != SPECVERSION:
        raise bad(wire, "specversion", f"specversion must be {SPECVERSION}")


def _check_text(wire: Wire, name: str, value: str, bytes_max: int) -> None:
    if not value.isprintable() and FORBIDDEN(value):
        raise bad(wire, name, f"{name} holds a control character or half a surrogate pair")
    if len(value) > bytes_max or (not value.isascii() and len(value.encode()) > bytes_max):
        raise bad(wire, name, f"{name} has more than {bytes_max:,} bytes")


def check_media_type(wire: Wire) -> None:
    """Raise BadEvent if an event in the JSON format has a datacontenttype that is none.

    In binary mode it is a header that a library sets, and is kept as it came.
    """
    if wire.datacontenttype is None:
        return
    _check_text(wire, "datacontenttype", wire.datacontenttype, ATTRIBUTE_BYTES_MAX)
    if not is_media_type(wire.datacontenttype):
        raise bad(wire, "datacontenttype", "datacontenttype must be a media type, as text/plain")


def check_count(attributes: Sized) -> None:
    """Raise BadEvent if there are more extensions, with all other attributes, than may be."""
    if len(attributes) > EXTENSIONS_MAX + len(NAMED):
        raise BadEvent(None, f"an event has at most {EXTENSIONS_MAX} extensions")


def check_extension(name: str, wire: Wire, value: msgspec.Raw | None = None) -> None:
    """Raise BadEvent if it is none; `value` is JSON, or None: it came as a header."""
    if name in NAMED:  # in binary mode: data, data_base64, datacontenttype are no headers
        raise bad(wire, name, f"there is no header ce-{name} in binary mode")
    if not _EXTENSION_NAME(name):
        shown = name.encode("ascii", "backslashreplace").decode()[:100]
        raise bad(wire, shown, "attribute names are made of the letters a to z and of digits")
    if value is None:
        return
    raw = bytes(value)
    is_plain = raw[:1] == b'"' and raw.isascii() and b"\\" not in raw
    if is_plain or is_integer(raw) or raw in _CONSTANTS:  # most are; it was part of valid JSON
        return
    if raw[:1] in (b"{", b"["):
        raise bad(wire, name, f"the extension {name} must be a string, a number or a boolean")
    if problem := json_problem(raw):
        raise bad(wire, name, f"the extension {name} is {problem}")
    if raw[:1] in b"-0123456789" and not is_integer(raw):
        raise bad(wire, name, f"a number in an extension is whole and of 32 bits: {name} is not")
