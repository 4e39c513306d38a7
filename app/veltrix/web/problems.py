"""Errors as RFC 9457 problems: `application/problem+json` with a stable `type` each.

A route raises `Problem`; everything else that can go wrong is turned into one here, so no caller
ever sees another shape, a traceback, or a bare 500 for a database that is away. `PROBLEMS` is the
list of them all, from which docs/reference/problems.md is made.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from veltrix.operations.runs.query import BadCondition
from veltrix.pipeline.accept.receipts import AcceptUnavailable
from veltrix.store.errors import Answer, answer_of
from veltrix.telemetry import logger
from veltrix.web.methods import allowed

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:veltrix:problem:"
_RETRY_AFTER_S = 1
_PATH_CHARS = 100


class ProblemKind(NamedTuple):
    """What every problem of one slug has in common; `cure` is for who reads the page of them."""

    status: int
    meaning: str
    cure: str


PROBLEMS: Mapping[str, ProblemKind] = {
    "bad-batch": ProblemKind(
        400,
        "The body is no list of events, or has too many.",
        "Send a JSON array within the limit.",
    ),
    "bad-encoding": ProblemKind(
        400,
        "The body is not what its Content-Encoding says.",
        "Compress it again, or send it plain.",
    ),
    "bad-event": ProblemKind(
        400, "The event is no CloudEvent.", "Mend the attribute that `attribute` names."
    ),
    "bad-idempotency-key": ProblemKind(
        400, "The Idempotency-Key cannot be used.", "Send printable ASCII characters, not too many."
    ),
    "bad-request": ProblemKind(
        400,
        "The request is not HTTP/1.1 as this api takes it.",
        "Look at the client, or the proxy.",
    ),
    "disconnected": ProblemKind(
        400, "The request ended before its body was complete.", "Send it again."
    ),
    "event-unstorable": ProblemKind(
        400, "The database takes no such event.", "Mend what `detail` names."
    ),
    "invalid-body": ProblemKind(
        400,
        "The body is not JSON, or has not the members or types that are asked for.",
        "Mend what `detail` names.",
    ),
    "invalid-input": ProblemKind(
        400, "The input does not fit the workflow's schema.", "Mend the places that `errors` lists."
    ),
    "invalid-options": ProblemKind(
        400, "The options of the replay make no sense.", "Mend the option that `detail` names."
    ),
    "invalid-patch": ProblemKind(
        400, "The patch is no JSON Patch, or is too large.", "Mend the operation that is named."
    ),
    "invalid-policy": ProblemKind(
        400, "The policy of retention cannot be.", "Mend what `detail` names; nothing was set."
    ),
    "invalid-request": ProblemKind(
        400, "A parameter or a member of the body makes no sense.", "Mend what `detail` names."
    ),
    "needs-all": ProblemKind(
        400, "The request selects every run there is.", "Narrow the filter, or say `all: true`."
    ),
    "edit-refused": ProblemKind(
        400, "A payload does not take the edit.", "Mend the patch; `runs` has the first payloads."
    ),
    "repeated-parameter": ProblemKind(
        400, "A query parameter is there twice and takes one value.", "Send the one that you mean."
    ),
    "unknown-parameter": ProblemKind(
        400, "The route has no such query parameter.", "Look at the name; `detail` has one near it."
    ),
    "wait-too-long": ProblemKind(
        400, "`wait_s` is longer than an api waits.", "Wait less, and ask again."
    ),
    "unauthorized": ProblemKind(
        401, "No key, or one that is not known.", "Send `Authorization: Bearer KEY`."
    ),
    "event-forbidden": ProblemKind(
        403, "The key may not send this type or source.", "Send it with a key that may."
    ),
    "forbidden": ProblemKind(
        403,
        "The key may not do this, or it came from elsewhere.",
        "Use a key with the scope named.",
    ),
    "not-found": ProblemKind(404, "There is nothing of this name or id.", "Look at the id."),
    "method-not-allowed": ProblemKind(
        405, "The route does not take this method.", "Use one of those in `Allow`."
    ),
    "too-slow": ProblemKind(
        408, "The request did not come in time.", "Send it in one piece, or look at the network."
    ),
    "changed": ProblemKind(
        409, "It was changed since it was read.", "Read it again, and decide again."
    ),
    "count-changed": ProblemKind(
        409, "By now other runs fit than were counted.", "Count again, and decide again."
    ),
    "empty-set": ProblemKind(409, "No run fits.", "Look at the filter."),
    "event-conflict": ProblemKind(
        409, "Another event has this source and id.", "Give every event an id of its own."
    ),
    "not-json": ProblemKind(
        409, "The payload is not JSON and cannot be edited.", "Send the event anew."
    ),
    "replayed-too-often": ProblemKind(
        409, "The run was replayed as often as a run can be.", "Start a new run of its workflow."
    ),
    "still-running": ProblemKind(
        409, "The first request with this key is not done.", "Ask again a little later."
    ),
    "wrong-state": ProblemKind(
        409, "In its state this cannot be done to it.", "Look at `state`, or at `runs`."
    ),
    "precondition-failed": ProblemKind(
        412, "It is not any more as the ETag says.", "Read it again, and decide again."
    ),
    "too-large": ProblemKind(413, "The body is larger than allowed.", "Send less at once."),
    "too-many-runs": ProblemKind(
        413, "More runs fit than one request may take.", "Select fewer, and repeat it."
    ),
    "unsupported-encoding": ProblemKind(
        415, "This Content-Encoding or charset is not read.", "Send gzip, deflate or plain UTF-8."
    ),
    "event-unrouted": ProblemKind(
        422, "No workflow takes the event, and the api keeps no such events.", "Register one first."
    ),
    "idempotency-key-reused": ProblemKind(
        422, "The key was used for another request.", "Use a new key for a new request."
    ),
    "no-version": ProblemKind(
        422, "The version that the group is settled for is not known.", "Name one that is deployed."
    ),
    "precondition-required": ProblemKind(428, "If-Match is missing.", "Send the ETag of the run."),
    "too-many-calls": ProblemKind(
        429, "The key, or the address, calls too often.", "Wait as long as Retry-After says."
    ),
    "too-many-waiting": ProblemKind(
        429, "Too many requests wait for outcomes.", "Ask without `wait_s`, or later."
    ),
    "head-too-large": ProblemKind(431, "The request's head is too large.", "Send fewer headers."),
    "internal": ProblemKind(
        500, "An unexpected error.", "The api's log has its traceback; please report it."
    ),
    "unavailable": ProblemKind(503, "Nothing was taken or read.", "Try again after Retry-After."),
}
_OF_STATUS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed"}  # of Starlette's

_log = logger("api")


class Problem(Exception):
    """Ends a request with this problem.

    `slug` is one of PROBLEMS, which gives the status. It is stable: clients may compare `type`
    (`urn:veltrix:problem:<slug>`). `members` become extension members of the document; `title` is
    the status's own phrase if not given.
    """

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        title: str | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail = PROBLEMS[slug].status, slug, detail
        self.title = title or HTTPStatus(self.status).phrase
        self.headers = headers or {}
        self.members = members

    def document(self) -> dict[str, Any]:
        """The problem as a JSON object."""
        return {
            "type": TYPE_PREFIX + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }

    def response(self) -> Response:
        """The problem as an answer."""
        return Response(
            msgspec.json.encode(self.document()),
            status_code=self.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def unavailable(detail: str, retry_after_s: int = _RETRY_AFTER_S) -> Problem:
    """503: nothing was taken or read; trying again after `retry_after_s` is worth it."""
    return Problem("unavailable", detail, headers={"Retry-After": str(retry_after_s)})


def problem_of(error: Exception) -> Problem:
    """The problem that says what this error means to the caller; 500 for what nobody foresaw."""
    match error:
        case Problem():
            return error
        case BadCondition():
            return Problem("invalid-request", str(error))
        case AcceptUnavailable():
            return unavailable(str(error), error.retry_after_s)
        case RequestValidationError():
            return _invalid_request(error)
        case HTTPException() if error.status_code in _OF_STATUS:
            slug, headers = _OF_STATUS[error.status_code], dict(error.headers or {})
            return Problem(slug, str(error.detail), headers=headers)
        case PoolTimeout():
            return unavailable("all database connections of this server are busy")
        case DBAPIError() if answer_of(error) in {Answer.CANNOT_SERVE, Answer.AGAIN}:
            return unavailable("the database cannot be reached now")
    _log.error("request.failed", exc_info=error)
    return Problem("internal", "an unexpected error; the server's log has its traceback")


def _invalid_request(error: RequestValidationError) -> Problem:
    errors = [
        {"at": ".".join(str(part) for part in e["loc"]), "message": e["msg"]}
        for e in error.errors()
    ]
    detail = "; ".join(f"{e['at']}: {e['message']}" for e in errors)
    return Problem("invalid-request", detail, errors=errors)


async def _render(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    path = repr(request.url.path[:_PATH_CHARS])
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:  # Starlette tells those of one route
        taken = ", ".join(allowed(request.app.routes, request.scope))
        problem.headers = {"Allow": taken}
        problem.detail = f"{path} does not take {request.method[:_PATH_CHARS]}; it takes {taken}"
    elif problem.status == HTTPStatus.NOT_FOUND and isinstance(error, HTTPException):
        problem.detail = f"there is no path {path}; /docs has those there are"
    return problem.response()


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""
    expected: list[type[Exception]] = [Problem, BadCondition, AcceptUnavailable]
    for kind in (
        *expected,
        RequestValidationError,
        HTTPException,
        PoolTimeout,
        DBAPIError,
        Exception,
    ):
        app.add_exception_handler(kind, _render)
