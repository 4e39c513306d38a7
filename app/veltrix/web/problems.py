"""Errors as RFC 9457 problems: `application/problem+json` with a stable `type` each.

A route raises `Problem`; everything else that can go wrong is turned into one here, so no caller
ever sees another shape, a traceback, or a bare 500 for a database that is away.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from veltrix.pipeline.accept.receipts import AcceptUnavailable
from veltrix.store.errors import Answer, answer_of
from veltrix.telemetry import logger
from veltrix.web.methods import allowed

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:veltrix:problem:"
_RETRY_AFTER_S = 1

_log = logger("api")


class Problem(Exception):
    """Ends a request with this problem.

    `slug` is stable: clients may compare `type` (`urn:veltrix:problem:<slug>`). `members` become
    extension members of the document; `title` is the status's own phrase if not given.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        title: str | None = None,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail = status, slug, detail
        self.title = title or HTTPStatus(status).phrase
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
    return Problem(503, "unavailable", detail, headers={"Retry-After": str(retry_after_s)})


def problem_of(error: Exception) -> Problem:
    """The problem that says what this error means to the caller; 500 for what nobody foresaw."""
    match error:
        case Problem():
            return error
        case AcceptUnavailable():
            return unavailable(str(error), error.retry_after_s)
        case RequestValidationError():
            return _invalid_request(error)
        case HTTPException():
            slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
            headers = dict(error.headers or {})
            return Problem(error.status_code, slug, str(error.detail), headers=headers)
        case PoolTimeout():
            return unavailable("all database connections of this server are busy")
        case DBAPIError() if answer_of(error) in {Answer.CANNOT_SERVE, Answer.AGAIN}:
            return unavailable("the database cannot be reached now")
    _log.error("request.failed", exc_info=error)
    return Problem(500, "internal", "an unexpected error; the server's log has its traceback")


def _invalid_request(error: RequestValidationError) -> Problem:
    errors = [
        {"at": ".".join(str(part) for part in e["loc"]), "message": e["msg"]}
        for e in error.errors()
    ]
    detail = "; ".join(f"{e['at']}: {e['message']}" for e in errors)
    return Problem(400, "invalid-request", detail, errors=errors)


async def _render(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:  # Starlette tells those of one route
        problem.headers = {"Allow": ", ".join(allowed(request.app.routes, request.scope))}
    return problem.response()


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""
    expected: list[type[Exception]] = [Problem, AcceptUnavailable, RequestValidationError]
    for kind in (*expected, HTTPException, PoolTimeout, DBAPIError, Exception):
        app.add_exception_handler(kind, _render)
