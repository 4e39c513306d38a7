"""`Idempotency-Key` on calls that change something and are not events.

draft-ietf-httpapi-idempotency-key-header: the same key and request replays the stored answer,
another request is refused with 422, one that still runs with 409. Keys belong to their author.
"""

import re
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TypeVar

import msgspec
from fastapi import Request
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from veltrix.access import answers
from veltrix.access.answers import StoredAnswer
from veltrix.store.transactions import open_autocommit, retry_transient
from veltrix.web.auth import LOCAL, Author
from veltrix.web.problems import MEDIA_TYPE, Problem
from veltrix.web.services import Services, services_of

HEADER = "Idempotency-Key"
T = TypeVar("T")

KEY_CHARS_MAX = 255
_LIKE_ITEM = re.compile(r"/[0-9]+/*$").search
REPLAYED = "Idempotency-Replayed"


class _Stored(msgspec.Struct):
    """What is kept of an answer besides its status."""

    media_type: str
    headers: dict[str, str]
    body: msgspec.Raw


_KEPT_HEADERS = ("location",)


def key_of(request: Request) -> str | None:
    """The request's Idempotency-Key, or None. Raises a 400 Problem when it cannot be used."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]  # the draft makes it a structured-field string; most clients do not
    if not 0 < len(key) <= KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        raise Problem(
            "bad-idempotency-key",
            f"{HEADER} must have 1 to {KEY_CHARS_MAX} printable ASCII characters",
        )
    return key


def own_key(author: Author, key: str) -> str:
    """The key as this author's: no two of (author, key) are one; of who needs none, as it is."""
    if author == LOCAL:
        return f":{key}" if ":" in key else key
    return f"{author.name.replace('%', '%25').replace(':', '%3A')}:{key}"


def item_id(key: str, index: int) -> str:
    """The id of the event for one input of a list."""
    return f"{key}/{index}"


def single_id(key: str) -> str:
    """The id of the event of a single start: no key makes it that of an input of a list."""
    return f"{key}/" if _LIKE_ITEM(key) else key


async def answer_once(
    request: Request,
    author: Author,
    body: bytes,
    call: Callable[[], Awaitable[Response]],
    form_key: str | None = None,
) -> Response:
    """The answer of `call`, which is made at most once per author, key and request.

    The key is the request's header, or that of a form, which can send no header. Without a key it
    is simply made. A problem, or an answer with Retry-After, frees the key.
    """
    key = form_key or key_of(request)
    if key is None:
        return await call()
    services = services_of(request)
    digest = _digest(request, body)
    found = await _in_thread(services, lambda tx: answers.begin(tx, author.name, key, digest))
    if found is not None:
        return _replay(found, digest, key)
    try:
        response = await call()
    except BaseException:
        await _in_thread(services, lambda tx: answers.give_up(tx, author.name, key))
        raise
    # What is worth trying again is not kept; all that was taken is found again under the same key.
    if response.status_code >= 400 or "retry-after" in response.headers:
        await _in_thread(services, lambda tx: answers.give_up(tx, author.name, key))
    else:
        text, status = _text_of(response), response.status_code
        await _in_thread(services, lambda tx: answers.finish(tx, author.name, key, status, text))
    return response


def _replay(found: StoredAnswer, digest: bytes, key: str) -> Response:
    if found.digest != digest:
        raise Problem(
            "idempotency-key-reused",
            f"the {HEADER} {key!r} was used for another request: send a new key with a new request",
        )
    if found.status is None or found.body is None:
        raise Problem(
            "still-running",
            f"the first request with the {HEADER} {key!r} still runs: ask again a little later",
            headers={"Retry-After": "1"},
        )
    stored = msgspec.json.decode(found.body, type=_Stored)
    return Response(
        bytes(stored.body),
        status_code=found.status,
        headers=stored.headers | {REPLAYED: "true"},
        media_type=stored.media_type,
    )


def _text_of(response: Response) -> str:
    media_type = response.headers.get("content-type", MEDIA_TYPE)
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    body = msgspec.Raw(bytes(response.body) or b"null")
    return msgspec.json.encode(_Stored(media_type, headers, body)).decode()


def _digest(request: Request, body: bytes) -> bytes:
    """Of what is to be done; how long its caller waits for the outcome is no part of that."""
    query = [one for one in request.url.query.split("&") if one.partition("=")[0] != "wait_s"]
    head = f"{request.method} {request.url.path}?{'&'.join(query)}\n".encode()
    return blake2b(head + body, digest_size=16).digest()


async def _in_thread(services: Services, use: Callable[[Connection], T]) -> T:
    def run() -> T:
        with open_autocommit(services.engine) as tx:
            return retry_transient(lambda: use(tx))

    return await run_in_threadpool(run)
