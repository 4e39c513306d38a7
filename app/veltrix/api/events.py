"""`POST /v1/events`: CloudEvents in the three content modes. Reading them: `api/event_reads.py`.

It is plain ASGI, without framework, models or injection: it is the hot path. Its
documentation is in `app/veltrix/api/openapi.py`.
"""

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from veltrix.access.scopes import Scope as KeyScope
from veltrix.access.scopes import allows
from veltrix.api.parsing import parse_batch_beside, read_beside
from veltrix.api.receipts import batch_answer, event_location
from veltrix.domain.events import NewEvent
from veltrix.pipeline.accept.cloudevents import (
    BadBatch,
    Mode,
    TooLarge,
    mode_of,
    parse_binary,
    parse_structured,
)
from veltrix.pipeline.accept.event_checks import BadEvent
from veltrix.pipeline.accept.event_list import Submission
from veltrix.pipeline.accept.receipts import EventForbidden, Receipt
from veltrix.telemetry import events_refused
from veltrix.web.auth import Author, author_at, check_asked
from veltrix.web.bodies import BodyReader, Disconnected, too_large
from veltrix.web.bounds import events_within, is_canary
from veltrix.web.event_problems import Unanswered, problem_of_event
from veltrix.web.problems import MEDIA_TYPE, Problem, problem_of
from veltrix.web.queries import check_no_query
from veltrix.web.services import Services
from veltrix.web.throttle import Throttle

_encode = msgspec.json.Encoder().encode
_JSON = (b"content-type", b"application/json")
_RETRY = (b"retry-after", b"1")

_Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


class EventsEndpoint:
    """The ASGI application behind `POST /v1/events`; services and bodies are in the app's state."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error becomes a problem."""
        services: Services = scope["app"].state.services
        try:
            status, headers, body = await _answer(services, scope, receive)
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - a caller sees a problem, never a bare 500
            problem = _problem_of(services, error)
            status, body = problem.status, _encode(problem.document())
            headers = [(b"content-type", MEDIA_TYPE.encode())]
            headers += [(k.lower().encode(), v.encode()) for k, v in problem.headers.items()]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _answer(services: Services, scope: Scope, receive: Receive) -> _Answer:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    content_type = next((v.decode("latin-1") for n, v in headers if n == b"content-type"), None)
    author = author_at(scope)
    if not allows(author.scopes, KeyScope.EVENTS_WRITE):
        await check_asked(Request(scope), author, KeyScope.EVENTS_WRITE)
    check_no_query(scope["query_string"])
    mode = mode_of(content_type, (name for name, _ in headers))
    bodies: BodyReader = scope["app"].state.bodies
    if mode is Mode.BATCH:
        body = await bodies.read(scope, receive, services.settings.batch_bytes_max)
        return await _batch(services, scope, author, body)
    body = await bodies.read(scope, receive, services.settings.event_bytes_max)
    if mode is Mode.STRUCTURED:
        event = await read_beside(author.name, len(body), lambda: parse_structured(body))
    else:
        event = await read_beside(author.name, len(body), lambda: parse_binary(headers, body))
    if author.limits is not None or is_canary(event):
        (within,) = await events_within(Request(scope), author, [event])
        if isinstance(within, EventForbidden):
            raise within
    answer = (await services.acceptor.submit([Submission(event, author.name)]))[0]
    if not isinstance(answer, Receipt):
        raise problem_of_event(answer)
    return 202, [_JSON, (b"location", event_location(answer).encode())], _encode(answer)


async def _batch(services: Services, scope: Scope, author: Author, body: bytes) -> _Answer:
    settings = services.settings
    throttle: Throttle = scope["app"].state.throttle
    found = await parse_batch_beside(
        author.name,
        body,
        settings.batch_events_max,
        settings.event_bytes_max,
        lambda length: throttle.charge_list(author, length),
    )
    parsed: Sequence[NewEvent | BadEvent | EventForbidden] = found
    if author.limits is not None or any(map(is_canary, found)):
        parsed = await events_within(Request(scope), author, found)
    good = [Submission(e, author.name) for e in parsed if isinstance(e, NewEvent)]
    accepted = iter(await services.acceptor.submit(good) if good else ())
    answers: list[Receipt | Unanswered] = [
        next(accepted) if isinstance(event, NewEvent) else event for event in parsed
    ]
    if bad := sum(isinstance(event, BadEvent) for event in parsed):
        _count_refused(services, "invalid", bad)
    if strays := len(parsed) - len(good) - bad:
        _count_refused(services, EventForbidden.word, strays)
    batch = batch_answer(answers)
    headers = [_JSON, _RETRY] if batch.refused and batch.may_retry else [_JSON]
    return batch.status, headers, _encode(batch)


def _problem_of(services: Services, error: Exception) -> Problem:
    match error:
        case BadEvent():
            _count_refused(services, "invalid", 1)
            return problem_of_event(error)
        case EventForbidden():
            _count_refused(services, error.word, 1)
            return problem_of_event(error)
        case BadBatch():
            _count_refused(services, "invalid", 1)
            return Problem("bad-batch", str(error))
        case TooLarge():
            error = too_large(str(error))
    problem = problem_of(error)
    if problem.status == 413:
        _count_refused(services, "too_large", 1)
    return problem


def _count_refused(services: Services, reason: str, count: int) -> None:
    events_refused.labels(reason).inc(count)
    services.acceptor.count_refused(count)
