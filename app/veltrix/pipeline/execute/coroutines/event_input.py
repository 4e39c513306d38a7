"""The event as the author of a workflow sees it, from what the claim read."""

from typing import Any

import msgspec

from veltrix.authoring.encoding import InvalidInput
from veltrix.authoring.workflows import Workflow
from veltrix.domain.attribute_values import charset_of, codec_of
from veltrix.domain.events import EDITS_TYPE, Event, event_of_parts, identity_shown
from veltrix.pipeline.execute.lease_rows import Claim

_decode = msgspec.json.Decoder().decode


def event_of(claim: Claim, workflow: Workflow) -> Event[Any]:
    """The event as its author sees it. Raises InvalidInput if its data does not fit."""
    if claim.source is None:
        raise InvalidInput("the event of this run is no longer in the ledger")
    extensions = _decode(claim.extensions) if claim.extensions else {}
    source, id_, type_ = claim.source, claim.sender_id, claim.type
    if type_ == EDITS_TYPE:
        source, id_, type_ = identity_shown(source, id_, type_, extensions)
    return event_of_parts(
        source,
        id_,
        type_,
        _data_of(claim, workflow),
        claim.subject,
        claim.time,
        claim.datacontenttype,
        claim.dataschema,
        extensions,
        claim.traceparent,
        claim.event_id,
        claim.accepted_at,
    )


def _data_of(claim: Claim, workflow: Workflow) -> Any:
    codec = workflow.codec
    if claim.data is not None:
        return codec.input(claim.data)
    if codec.input_type is Any:
        return claim.data_binary
    if claim.data_binary is None:
        return _nothing(workflow)
    if codec.input_of_bytes is bytes:
        return claim.data_binary
    if codec.input_of_bytes is str:
        return codec.input_text(_text(claim.data_binary, claim.datacontenttype))
    named = claim.datacontenttype or "not named"
    raise InvalidInput(
        f"the event has no JSON data: its content type is {named}; a workflow that takes such"
        " events declares Event[bytes] or Event[str]"
    )


def _nothing(workflow: Workflow) -> Any:
    try:
        return workflow.codec.input("null")
    except InvalidInput:
        raise InvalidInput("the event has no data") from None


def _text(content: bytes, content_type: str | None) -> str:
    charset = charset_of(content_type or "")
    try:
        return content.decode(codec_of(charset))
    except LookupError:
        raise InvalidInput(f"the event's data is in the unknown charset {charset!r}") from None
    except UnicodeError as error:
        raise InvalidInput(f"the event's data is no text in {charset}: {error}") from error
