"""What requests ask for, read and checked: bodies, ids, texts and times. Each raises a Problem."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from fastapi import Request

from app.api.bodies import BodyReader, Disconnected
from app.api.problems import Problem
from app.store.actions import canonical

BODY_BYTES_MAX = 16_384


async def body_of(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The whole body."""
    bodies: BodyReader = request.app.state.bodies
    try:
        return await bodies.read(request.scope, request.receive, bytes_max)
    except Disconnected:
        raise Problem(400, "disconnected", "the request ended early") from None


def decoded(body: bytes, type_: Callable[..., Any]) -> Any:
    """The body as this type, which has a `reason` that can be stored."""
    if not body.strip():
        raise Problem(400, "invalid-body", f"the body is missing: send {_shape_of(type_)}")
    try:
        asked = msgspec.json.decode(body, type=type_)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "invalid-body", f"the body does not fit: {error}") from error
    storable("reason", asked.reason)
    return asked


def storable(name: str, text: str | None) -> str | None:
    """The text, if PostgreSQL can hold it."""
    if text is not None and ("\x00" in text or not _is_unicode(text)):
        raise Problem(400, "invalid-request", f"{name} has characters that no text can have")
    return text


def id_of(name: str, text: str | None) -> str | None:
    """The id as the tables write it; None stays None."""
    id_ = None if text is None else canonical(text)
    if text is not None and id_ is None:
        raise Problem(400, "invalid-request", f"{name} must be an id (a UUID), not {text!r}")
    return id_


def utc(time: datetime | None) -> datetime | None:
    """A time without a zone is UTC."""
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)


def _shape_of(type_: Callable[..., Any]) -> str:
    """What a body of this type has, in words."""
    if not isinstance(type_, type) or not issubclass(type_, msgspec.Struct):
        return "JSON"
    fields = msgspec.structs.fields(type_)
    needed = [f'"{field.encode_name}"' for field in fields if field.required]
    others = [f'"{field.encode_name}"' for field in fields if not field.required]
    may = f"; it may have {', '.join(others)} too" if others else ""
    return f"a JSON object with {' and '.join(needed)}{may}" if needed else f"a JSON object{may}"


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
