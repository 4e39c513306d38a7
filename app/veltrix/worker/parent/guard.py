"""The guard: what arrives on a workflow queue is read here, and nothing can raise into the loop.

A message that the relay did not send becomes a dead letter, not a crash (loss modes W09 to W11).
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from veltrix.domain.dead_letters import DeadLetter

_BODY_BYTES_KEPT_MAX = 1024 * 1024
_is_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE).fullmatch


class _Embedded(msgspec.Struct):
    """The third part of a body. What is handed over is for a child to read."""

    veltrix: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(tuple[tuple[list[str]], dict[str, Any], _Embedded]).decode
_EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Malformed(Exception):
    """The message is not one of the relay's. `reason` is a word for the row."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class RelayMessage(msgspec.Struct):
    """What a message of the relay says."""

    task: str
    delivery_id: str
    run_ids: list[str]
    body: Any
    payload_bytes: int
    is_alone: bool
    returns: int  # how often RabbitMQ gave it to somebody before, and had it back
    token: str | None = None  # of runs that are handed over as claimed
    handed: bytes | None = None  # what it carries of them; None: somebody had it before


def read_message(message: Any) -> RelayMessage:
    """The relay's order in a message of Celery protocol 2. Raises Malformed."""
    headers = message.headers
    if not isinstance(headers, dict) or "task" not in headers:
        raise Malformed("no_task", "no `task` header: not a message of Celery protocol 2")
    if message.errors:
        raise Malformed("undecodable", str(message.errors[0])[:500])
    if message.content_type != "application/json":
        raise Malformed("content_type", f"content type {message.content_type!r}, not JSON")
    task, delivery_id = headers["task"], headers.get("id")
    if not isinstance(task, str) or not isinstance(delivery_id, str):
        raise Malformed("no_id", "the `task` and `id` headers must be texts")
    try:
        body = _decode(message.body)
    except (msgspec.MsgspecError, UnicodeError, TypeError) as error:
        raise Malformed("body", f"the body is not the relay's: {error}") from error
    (run_ids,), _, embedded = body
    if not run_ids or not all(map(_is_uuid, (*run_ids, delivery_id))):
        raise Malformed("run_ids", "the body names no run ids")
    token, handed = headers.get("veltrix_token"), bytes(embedded.veltrix)
    is_first = bool(handed) and (message.delivery_info or {}).get("redelivered") is False
    payload_bytes, returns = headers.get("veltrix_bytes"), headers.get("x-delivery-count")
    return RelayMessage(
        task=task,
        delivery_id=delivery_id,
        run_ids=list(dict.fromkeys(run_ids)),
        body=[[run_ids], {}, _EMBEDDED],
        payload_bytes=payload_bytes if isinstance(payload_bytes, int) else 0,
        is_alone=headers.get("veltrix_alone") is True,
        returns=returns if isinstance(returns, int) else 0,
        token=token if isinstance(token, str) and _is_uuid(token) else None,
        handed=handed if is_first else None,
    )


def evidence_of(
    message: Any, queue_of: Callable[[Any], str], reason: str, detail: str
) -> DeadLetter:
    """As `letter_of`, whatever it meets: that is evidence too."""
    try:
        return letter_of(message, queue_of(message), reason, detail)
    except Exception as error:  # noqa: BLE001 - no message may end the parent
        return DeadLetter(queue="", reason=reason, detail=ascii(error)[:1_000])


def letter_of(message: Any, queue: str, reason: str, detail: str) -> DeadLetter:
    """A message as a dead letter: as much of it as a row can hold."""
    body = message.body
    raw = body.encode(errors="replace") if isinstance(body, str) else bytes(body or b"")
    properties = getattr(message, "properties", None) or {}
    kept = {"headers": message.headers, "properties": properties}
    try:
        headers = msgspec.json.encode(kept, enc_hook=repr).decode()
    except (UnicodeError, ValueError, TypeError, OverflowError, RecursionError):
        headers = msgspec.json.encode({"repr": ascii(kept)[:10_000]}).decode()
    content_type = message.content_type
    return DeadLetter(
        queue=queue,
        reason=reason,
        detail=ascii(detail)[1:-1][:1_000],
        content_type=ascii(content_type)[1:-1][:200] if content_type is not None else None,
        headers=headers,
        body=raw[:_BODY_BYTES_KEPT_MAX],
    )
