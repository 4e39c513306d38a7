"""An event: a fact a producer told us, as the ledger keeps it and as workflows see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

# How events are sent: one as a JSON object, or a list of such.
STRUCTURED_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"

STARTS_SOURCE_PREFIX = "/veltrix/starts/"
STARTS_TYPE = "veltrix.start"
EDITS_SOURCE_PREFIX = "/veltrix/edits/"
EDITS_TYPE = "veltrix.edit"
OWN_SOURCE_PREFIXES = (STARTS_SOURCE_PREFIX, EDITS_SOURCE_PREFIX)  # no producer may use them
# An event of the platform that goes all the way, so that somebody sees it did. It is taken and
# executed as any other; books, lists and figures leave it out.
CANARY_SOURCE = "/veltrix/canary"
CANARY_TYPE_PREFIX = "veltrix.canary."  # and the queue that it goes through
CANARY_WORKFLOW = "veltrix.canary"  # in every worker, without a subscription
CANARY_ACCOUNT = -2  # in no book
# Where an edited event keeps what its origin was: CloudEvents names are a to z and digits.
ORIGIN_SOURCE, ORIGIN_ID, ORIGIN_TYPE = "originsource", "originid", "origintype"


def is_half_canary(source: str, type_: str) -> bool:
    """Whether its source or its type is the canary's, and not both: nobody else may have them."""
    return (source == CANARY_SOURCE) != type_.startswith(CANARY_TYPE_PREFIX)


class NewEvent(msgspec.Struct, kw_only=True, gc=False):
    """A parsed event on its way into the ledger: payload and attributes exactly as sent.

    `data_json` is the JSON text of `data`; `data_binary` the bytes of any other content. At most
    one is set. `extensions` is a JSON object text of all attributes CloudEvents does not name.
    `digest_as_sent` is the digest of the very bytes, where it is another: events were once
    compared by it.
    """

    source: str
    id: str
    type: str
    digest: bytes
    digest_as_sent: bytes | None = None
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data_json: str | None = None
    data_binary: bytes | None = None
    extensions: str | None = None
    traceparent: str | None = None

    @property
    def payload_bytes(self) -> int:
        """Size of the payload: what a worker will have to hold for it."""
        return len(self.data_json or "") + len(self.data_binary or b"")


def content_digest(
    type_: str,
    subject: str | None,
    datacontenttype: str | None,
    dataschema: str | None,
    data: bytes,
) -> bytes:
    """16 bytes that say whether two events with one identity tell the same fact.

    Covers type, subject, datacontenttype, dataschema and the data bytes; not the trace context and
    not the HTTP mode, which change when the same fact is sent again (mechanics 9).
    """
    head = _digested_head(type_, subject, datacontenttype, dataschema)
    return blake2b(head + data, digest_size=16).digest()


# A producer's events differ in their data: half the time of a digest, and few enough to keep
# whatever they hold.
@lru_cache(maxsize=256)
def _digested_head(*parts: str | None) -> bytes:
    encoded = [b"" if part is None else part.encode() for part in parts]
    markers = [b"\x00" if part is None else b"\x01" for part in parts]
    return b"".join(
        marker + len(one).to_bytes(4, "big") + one
        for marker, one in zip(markers, encoded, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """What a workflow is given: a CloudEvents 1.0 event as the producer sent it.

    `source` and `id` identify it; `event_id` is the ledger's id. `data` is the decoded JSON value,
    the workflow's input type when its event is annotated as `Event[Type]`, `bytes` for content that
    is not JSON, or None.
    """

    source: str
    id: str
    type: str
    data: T
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)
    traceparent: str | None = None
    event_id: str = ""
    accepted_at: datetime | None = None


_Draft: Any = make_dataclass(
    "_Draft",
    [(one.name, Any) for one in fields(Event)],
    bases=(Generic[T],),  # type: ignore[index] # mypy takes it for an object
    slots=True,
)


def event_of_parts(*parts: Any) -> Event[Any]:
    """As `Event(*parts)` with all of them, in a third of the time: frozen ones set by calls."""
    event: Event[Any] = _Draft(*parts)
    event.__class__ = Event
    return event


def identity_shown(
    source: str, id_: str, type_: str, extensions: Mapping[str, Any]
) -> tuple[str, str, str]:
    """Source, id and type of the event as a workflow sees it: of an edited one, its origin's."""
    if type_ != EDITS_TYPE:
        return source, id_, type_
    return (
        str(extensions.get(ORIGIN_SOURCE, source)),
        str(extensions.get(ORIGIN_ID, id_)),
        str(extensions.get(ORIGIN_TYPE, type_)),
    )
