"""What requests ask for, read and checked: bodies, ids, texts and times. Each raises a Problem."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import Query, Request
from pydantic import WithJsonSchema

from veltrix.domain.json_text import bad_json
from veltrix.domain.text import is_storable
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.query import WORD_CHARS_MAX, Word
from veltrix.web.bodies import BodyReader, Disconnected
from veltrix.web.problems import Problem
from veltrix.web.suggestions import listed, misfit

BODY_BYTES_MAX = 16_384

# A text in an address.
ParameterText = Annotated[str | None, Query(max_length=WORD_CHARS_MAX)]
# Told as a UUID, and taken as text: what is none gets a sentence of ours.
IdText = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid"})]


class ReasonBody(msgspec.Struct, forbid_unknown_fields=True):
    """Why: the reason is kept with what is done, and in the audit."""

    reason: Word


async def body_of(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The whole body."""
    bodies: BodyReader = request.app.state.bodies
    try:
        return await bodies.read(request.scope, request.receive, bytes_max)
    except Disconnected:
        raise Problem("disconnected", "the request ended early") from None


def decoded(body: bytes, type_: type[msgspec.Struct]) -> Any:
    """The body as this type, which has a `reason` that can be stored."""
    if not body.strip():
        raise Problem("invalid-body", f"the body is missing: send {_shape_of(type_)}")
    try:
        asked: Any = msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise Problem("invalid-body", misfit(error, type_)) from error
    except (ValueError, RecursionError) as error:
        detail = f"the body is {bad_json(body, error)}; send {_shape_of(type_)}"
        raise Problem("invalid-body", detail) from error
    storable("reason", asked.reason)
    return asked


def storable(name: str, text: str | None) -> str | None:
    """The text, if PostgreSQL can hold it."""
    if text is not None and not is_storable(text):
        raise Problem(
            "invalid-request",
            f"{name} has a NUL, or half of a surrogate pair, which no text can hold: take it out",
        )
    return text


def id_of(name: str, text: str | None) -> str | None:
    """The id as the tables write it; None stays None."""
    id_ = None if text is None else canonical(text)
    if text is not None and id_ is None:
        raise Problem("invalid-request", f"{name} must be an id (a UUID), not {text[:100]!r}")
    return id_


def utc(time: datetime | None) -> datetime | None:
    """A time without a zone is UTC."""
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)


def _shape_of(type_: type[msgspec.Struct]) -> str:
    """What a body of this type has, in words."""
    fields = msgspec.structs.fields(type_)
    needed = [f'"{field.encode_name}"' for field in fields if field.required]
    others = [f'"{field.encode_name}"' for field in fields if not field.required]
    may = f"; it may have {listed(others)} too" if others else ""
    return f"a JSON object with {listed(needed)}{may}" if needed else f"a JSON object{may}"
