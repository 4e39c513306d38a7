"""A run handed over as claimed: its message carries its event, and the token that is on its row.

Who receives it first may begin without asking the ledger (decision 42). What it carries is signed
with a key that only the ledger has, so that a message of another ledger is not believed.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import msgspec

from veltrix.domain.due import Lease
from veltrix.domain.events import NewEvent
from veltrix.domain.ids import unix_ms_of

_NO_JSON = msgspec.Raw(b"null")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIXED_BYTES = 200  # ids and punctuation
_encode = msgspec.json.Encoder().encode


class HandedEvent(msgspec.Struct, array_like=True, gc=False):
    """A run and its event, as a worker needs them; JSON as it was sent. `has_data`: else none."""

    run_id: str
    source: str
    id: str
    type: str
    subject: str | None
    time: str | None
    datacontenttype: str | None
    dataschema: str | None
    has_data: bool
    data: msgspec.Raw
    extensions: msgspec.Raw  # null: none
    traceparent: str | None

    @property
    def data_text(self) -> str | None:
        """The JSON text of `data`, or None."""
        return bytes(self.data).decode() if self.has_data else None

    @property
    def extensions_text(self) -> str | None:
        """The JSON text of the extensions, or None."""
        text = bytes(self.extensions)
        return None if text == b"null" else text.decode()

    @property
    def accepted_at(self) -> datetime:
        """When the ledger took it: to the millisecond, as its id says."""
        return _EPOCH + timedelta(milliseconds=unix_ms_of(self.run_id))


class Handed(msgspec.Struct, gc=False):
    """What a message carries beside the ids of its runs. `events`: of HandedEvent, or empty."""

    token: str
    until_ms: int
    workflow: str
    queue: str
    events: msgspec.Raw = msgspec.Raw(b"[]")
    signature: str = ""

    def signed(self, key: bytes) -> str:
        """The signature of all of it."""
        head = _encode((self.token, self.until_ms, self.workflow, self.queue))
        return blake2b(head + bytes(self.events), key=key, digest_size=16).hexdigest()


_decode = msgspec.json.Decoder(Handed).decode
_decode_events = msgspec.json.Decoder(list[HandedEvent]).decode


def may_travel(event: NewEvent, bytes_max: int) -> bool:
    """Whether a message may carry this event: JSON, and not larger than that, about."""
    if event.data_binary is not None:
        return False
    size = _FIXED_BYTES + len(event.data_json or "") + len(event.extensions or "")
    size += len(event.source) + len(event.id) + len(event.type) + len(event.subject or "")
    return size + len(event.dataschema or "") <= bytes_max


def pack_event(run_id: str, event: NewEvent) -> bytes:
    """A run and its event, for a message."""
    data, extensions = event.data_json, event.extensions
    return _encode(
        HandedEvent(
            run_id,
            event.source,
            event.id,
            event.type,
            event.subject,
            event.time,
            event.datacontenttype,
            event.dataschema,
            data is not None,
            _NO_JSON if data is None else msgspec.Raw(data.encode()),
            _NO_JSON if extensions is None else msgspec.Raw(extensions.encode()),
            event.traceparent,
        )
    )


def hand(
    lease: Lease, workflow: str, queue: str, events: Sequence[bytes], key: bytes | None
) -> Handed:
    """What the message of these runs carries; without a key it is believed by nobody."""
    packed = msgspec.Raw(b"[" + b",".join(events) + b"]")
    handed = Handed(lease.token, lease.until_ms, workflow, queue, packed)
    if key is not None:
        handed.signature = handed.signed(key)
    return handed


def unpack(raw: bytes) -> Handed:
    """What a message carries. Raises msgspec.MsgspecError or UnicodeError if it is not ours."""
    return _decode(raw)


def events_of(handed: Handed) -> list[HandedEvent]:
    """The runs and events it carries. Raises msgspec.MsgspecError if they are not ours."""
    return _decode_events(handed.events)
