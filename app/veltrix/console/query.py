"""What a request asks for: filters and cursors of the address, fields of a form.

An empty field asks for nothing. What cannot be is a 400 Problem that names the field.
"""

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import parse_qsl

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from veltrix.access.audit import AuditFilter
from veltrix.domain.text import is_storable, moment_of
from veltrix.operations.runs.action_rows import canonical
from veltrix.operations.runs.query import RunQuery
from veltrix.operations.runs.read_events import EventFilter
from veltrix.web.bodies import BodyReader, Disconnected
from veltrix.web.problems import Problem

TEXT_CHARS_MAX = 1_000
FORM_BYTES_MAX = 64 * 1024
FIELDS_MAX = 32


class RunsRequest(msgspec.Struct, frozen=True):
    """Which runs: what runs themselves say, and what their events say."""

    runs: RunQuery
    source: str | None = None
    subject: str | None = None
    type: str | None = None
    cursor: str | None = None

    @property
    def by_event(self) -> EventFilter | None:
        """The events whose runs are asked for; None: events are not asked about."""
        if self.source is self.subject is self.type is None:
            return None
        return EventFilter(
            source=self.source,
            subject=self.subject,
            type=self.type,
            since=self.runs.since,
            until=self.runs.until,
        )


class EventsRequest(msgspec.Struct, frozen=True):
    """Which events, from where on."""

    events: EventFilter
    cursor: str | None = None


class AuditRequest(msgspec.Struct, frozen=True):
    """Which rows of the audit, from where on."""

    rows: AuditFilter
    cursor: int | None = None


def runs_request(query: Mapping[str, str]) -> RunsRequest:
    """Which runs the address asks for."""
    wanted = RunQuery.from_query(query)
    source, subject, type_ = (text(query, name) for name in ("source", "subject", "type"))
    return RunsRequest(wanted, source, subject, type_, id_of(query, "cursor"))


def events_request(query: Mapping[str, str]) -> EventsRequest:
    """Which events the address asks for."""
    wanted = EventFilter(
        source=text(query, "source"),
        type=text(query, "type"),
        subject=text(query, "subject"),
        id=text(query, "id"),
        unrouted=flag(query, "unrouted"),
        since=time_of(query, "since"),
        until=time_of(query, "until"),
    )
    return EventsRequest(wanted, id_of(query, "cursor"))


def audit_request(query: Mapping[str, str]) -> AuditRequest:
    """Which rows of the audit the address asks for."""
    wanted = AuditFilter(
        author=text(query, "author"),
        action=text(query, "action"),
        target=text(query, "target"),
        target_id=text(query, "target_id"),
        is_refused=flag(query, "refused"),
        since=time_of(query, "since"),
        until=time_of(query, "until"),
    )
    return AuditRequest(wanted, number(query, "cursor"))


def text(query: Mapping[str, str], name: str, chars_max: int = TEXT_CHARS_MAX) -> str | None:
    """The field without the spaces around it; None when it is empty or not there."""
    value = query.get(name, "").strip()
    if not value:
        return None
    if len(value) > chars_max:
        raise _bad(name, f"at most {chars_max:,} characters")
    if not is_storable(value):
        raise _bad(name, "text without NUL and without half of a surrogate pair")
    return value


def cookie_of(request: Request, name: str) -> str | None:
    """The cookie of this name, as it is; None: there is none.

    Python's reader undoes the quotes of all others, in a time that is the square of their length.
    """
    for header in request.headers.getlist("cookie"):
        for one in header.split(";"):
            given, _, value = one.partition("=")
            if given.strip() == name:
                return value.strip()
    return None


def id_of(query: Mapping[str, str], name: str) -> str | None:
    """The field as an id of ours."""
    value = text(query, name)
    if value is None:
        return None
    id_ = canonical(value)
    if id_ is None:
        raise _bad(name, "an id (a UUID)")
    return id_


def number(query: Mapping[str, str], name: str) -> int | None:
    """The field as a whole number from 0, of as many digits as the database has."""
    value = text(query, name)
    if value is None:
        return None
    if not value.isascii() or not value.isdecimal() or len(value) > 18:
        raise _bad(name, "a whole number from 0")
    return int(value)


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """The field as yes or no."""
    value = text(query, name)
    if value is None:
        return None
    if value not in {"yes", "no"}:
        raise _bad(name, "yes or no")
    return value == "yes"


def time_of(query: Mapping[str, str], name: str) -> datetime | None:
    """The field as a time; in UTC where it names no zone."""
    value = text(query, name)
    if value is None:
        return None
    try:
        return moment_of(value)
    except ValueError:
        raise _bad(name, "a time such as 2026-01-31T12:00") from None


async def form_of(
    request: Request, bytes_max: int = FORM_BYTES_MAX
) -> tuple[bytes, dict[str, str]]:
    """The body of a form, as sent and by field; of a field that comes twice, the last."""
    bodies: BodyReader = request.app.state.bodies
    try:
        body = await bodies.read(request.scope, request.receive, bytes_max)
    except Disconnected:
        raise Problem("disconnected", "the request ended early") from None
    return body, await run_in_threadpool(_fields, body)  # a payload takes a while to be decoded


def _fields(body: bytes) -> dict[str, str]:
    try:
        text_ = body.decode("ascii")
        return dict(parse_qsl(text_, keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except UnicodeDecodeError:
        raise Problem("invalid-request", "a form is sent as ASCII, percent-encoded") from None
    except ValueError:
        raise Problem("invalid-request", f"a form has at most {FIELDS_MAX} fields") from None


def _bad(name: str, what: str) -> Problem:
    return Problem("invalid-request", f"{name} must be {what}")
