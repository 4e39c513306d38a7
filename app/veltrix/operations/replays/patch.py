"""Edits: a payload changed by a JSON Patch (RFC 6902), and the event that the edited run is for.

Numbers keep every digit they were sent with, for a patch must not change what it does not name.
"""

from decimal import Decimal, InvalidOperation
from typing import Any

import jsonpatch
import msgspec
from jsonpointer import JsonPointer, JsonPointerException

from veltrix.authoring.input_schema import InputSchema
from veltrix.domain.events import (
    EDITS_SOURCE_PREFIX,
    EDITS_TYPE,
    ORIGIN_ID,
    ORIGIN_SOURCE,
    ORIGIN_TYPE,
    NewEvent,
    content_digest,
)
from veltrix.domain.json_scan import depth_of
from veltrix.domain.json_text import json_problem

Patch = list[dict[str, Any]]

DIFF_BYTES_MAX = 65_536  # beyond it the diff of two payloads takes seconds, and nobody reads it
DIFF_DEPTH_MAX = 50
OPERATIONS_MAX = 1_000


def _number(written: str) -> Decimal:
    """A number as it was written.

    One whose exponent no decimal has is 0 to every reader: what is too large is refused before.
    """
    try:
        return Decimal(written)
    except InvalidOperation:
        return Decimal("-0.0" if written.startswith("-") else "0.0")


_decode = msgspec.json.Decoder(float_hook=_number).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


class PatchInvalid(ValueError):
    """It is no JSON Patch; the message says what is wrong with it."""


class EditRefused(ValueError):
    """The payload cannot be edited like this; `errors` are the places that do not fit."""

    def __init__(self, message: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or []


class Origin(msgspec.Struct, gc=False):
    """A failed run that is to be edited, with its event. `edits`: how often it was edited before.

    `data` is the JSON text; None: the event has none, or its content is not JSON (`is_binary`).
    """

    run_id: str
    generation: int
    workflow: str
    queue: str
    priority: int
    edits: int
    event_id: str
    source: str
    sender_id: str
    type: str
    subject: str | None
    time: str | None
    datacontenttype: str | None
    dataschema: str | None
    data: str | None
    is_binary: bool
    extensions: str | None
    traceparent: str | None


def read_patch(raw: bytes) -> Patch:
    """The patch that a JSON text is. Raises PatchInvalid."""
    if problem := json_problem(raw):
        raise PatchInvalid(f"the patch is {problem}")
    return parse_patch(exact(raw))


def parse_patch(value: Any) -> Patch:
    """The patch, if it is one. Raises PatchInvalid."""
    if not isinstance(value, list) or not value:
        raise PatchInvalid("a patch is a list of at least one operation (RFC 6902)")
    if len(value) > OPERATIONS_MAX:
        raise PatchInvalid(
            f"the patch has {len(value):,} operations, more than the {OPERATIONS_MAX:,} allowed"
        )
    for number, operation in enumerate(value):
        if not isinstance(operation, dict):
            raise PatchInvalid(f"operation {number} is no JSON object with op and path")
        try:
            jsonpatch.JsonPatch([operation])
            _check_members(operation)
        except (jsonpatch.JsonPatchException, JsonPointerException, TypeError) as error:
            raise PatchInvalid(f"operation {number}: {error}") from None
    return value


def _check_members(operation: dict[str, Any]) -> None:
    """What the library looks at only when it applies an operation."""
    name = operation["op"]
    if name in {"add", "replace", "test"} and "value" not in operation:
        raise TypeError(f"{name} needs a value")
    if name in {"move", "copy"}:
        if not isinstance(operation.get("from"), str):
            raise TypeError(f"{name} needs a `from`")
        JsonPointer(operation["from"])


def replacing(text: str) -> Patch:
    """The patch that puts this JSON text in place of the whole payload."""
    return [{"op": "replace", "path": "", "value": exact(text)}]


def exact(text: str | bytes) -> Any:
    """The value of a JSON text, with numbers as they are written. ValueError if it is none."""
    return _decode(text)


def text_of(value: Any) -> str:
    """The JSON text of a value from `exact`."""
    return _encode(value).decode()


def edited(before: str | None, patch: Patch, schema: InputSchema, bytes_max: int) -> str:
    """The payload after the patch, which fits the schema. Raises EditRefused."""
    try:
        after = _applied(before or "null", patch, bytes_max)
    except RecursionError:
        raise EditRefused("the payload is nested too deep to be patched") from None
    text = text_of(after)
    if len(text.encode()) > bytes_max:
        raise EditRefused(f"the edited payload has more than the {bytes_max:,} bytes allowed")
    if problem := json_problem(text.encode()):
        raise EditRefused(f"the edited payload is {problem}")
    # As the worker will read it: a check of Decimals is another check.
    if violations := schema.violations(msgspec.json.decode(text)):
        first = f"{violations[0].at or '/'}: {violations[0].message}"
        errors = [{"at": v.at, "message": v.message} for v in violations]
        raise EditRefused(f"the edited payload does not fit the workflow's input: {first}", errors)
    return text


def _applied(before: str, patch: Patch, bytes_max: int) -> Any:
    """The value after the patch. Forty copies of the whole into itself would be 2^40 times it.

    All that a patch copies is counted, also what it removes again: the time is spent either way.
    Raises EditRefused, which says which operation cannot be applied.
    """
    value, copied = exact(before), 0
    # A copy: the library puts the patch's own values into the payload, and changes them there.
    for number, operation in enumerate(exact(_encode(patch))):
        done = operation
        try:
            if operation["op"] == "copy":
                part = _encode(JsonPointer(operation["from"]).resolve(value))
                copied += len(part)
                _check_copies(copied, bytes_max)
                # The library's own copy takes a hundred times as long.
                done = {"op": "add", "path": operation["path"], "value": exact(part)}
            value = jsonpatch.apply_patch(value, [done], in_place=True)
        except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, ValueError) as error:
            which = f"operation {number}, {operation['op']} {operation['path'][:100]!r}"
            raise EditRefused(f"{which}, cannot be applied: {error}"[:500]) from None
    return value


def _check_copies(copied: int, bytes_max: int) -> None:
    if copied > 2 * bytes_max:
        raise ValueError(f"the patch copies more than twice the {bytes_max:,} bytes allowed")


def diff(before: str | None, after: str, patch: Patch) -> Patch:
    """The smallest patch known that leads from one payload to the other: what is kept of an edit.

    A patch that does not replace the whole is that already; so is one of a payload that is large,
    or deep: the library writes every list on the way down once for each level.
    """
    is_whole = len(patch) == 1 and patch[0].get("path") == ""
    if not is_whole or len(before or "") + len(after) > DIFF_BYTES_MAX:
        return patch
    if max(depth_of((before or "").encode()), depth_of(after.encode())) > DIFF_DEPTH_MAX:
        return patch
    found: Patch = jsonpatch.JsonPatch.from_diff(
        exact(before or "null"), exact(after), dumps=text_of
    ).patch
    return found


def edited_event(origin: Origin, data: str) -> NewEvent:
    """The event that the edited run is for: of our own source, and with its origin's identity.

    Its id follows from the origin, so the same edit of it is the same event.
    """
    known: dict[str, Any] = msgspec.json.decode(origin.extensions) if origin.extensions else {}
    first = {ORIGIN_SOURCE: origin.source, ORIGIN_ID: origin.sender_id, ORIGIN_TYPE: origin.type}
    kept = first | known if origin.type == EDITS_TYPE else known | first
    content_type = origin.datacontenttype or "application/json"
    return NewEvent(
        source=EDITS_SOURCE_PREFIX + origin.workflow,
        id=f"{origin.run_id}/{origin.generation}/{origin.edits}",
        type=EDITS_TYPE,
        digest=content_digest(
            EDITS_TYPE, origin.subject, content_type, origin.dataschema, data.encode()
        ),
        subject=origin.subject,
        time=origin.time,
        datacontenttype=content_type,
        dataschema=origin.dataschema,
        data_json=data,
        extensions=msgspec.json.encode(kept).decode(),
        traceparent=origin.traceparent,
    )
