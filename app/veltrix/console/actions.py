"""What the console changes: sessions and runs. Each is written down with its author and reason.

An action is a form that is sent once: it carries the token of its session and a key of its own, and
the same form sent again gets the first answer.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from veltrix.access.scopes import Scope
from veltrix.console.query import FORM_BYTES_MAX, form_of, text
from veltrix.console.rendering import BASE, address, rendered
from veltrix.console.sessions import (
    COOKIE,
    Visitor,
    check_bounds,
    check_csrf,
    check_origin,
    check_scope,
    note_refused,
    set_cookie,
    sign_in,
    sign_out,
    visitor_of,
)
from veltrix.domain.states import ReplayMode
from veltrix.operations.replays.move import Replayed, replay
from veltrix.operations.runs.cancel import Cancelled, CancelRequested, cancel
from veltrix.web.idempotency import KEY_CHARS_MAX, answer_once
from veltrix.web.not_done import not_cancelled, not_replayed
from veltrix.web.problems import Problem
from veltrix.web.services import services_of

_TOKEN_BYTES = 32

Form = Mapping[str, str]
Call = Callable[[Request, Visitor, Form], Response]


def sign_in_page(request: Request) -> Response:
    """Asks for an API key; where nobody has to sign in, leads on."""
    if not services_of(request).keys.is_required:
        return RedirectResponse(address("/"), 303)
    return rendered(request, None, "sign_in.html", next=_next(request.query_params), mistake=None)


async def begin_session(request: Request) -> Response:
    """Sign in with the key of the form; says that it is unknown, and nothing more, if it is."""
    check_origin(request)
    if not services_of(request).keys.is_required:
        return RedirectResponse(address("/"), 303)
    _, form = await form_of(request)
    token, csrf = secrets.token_urlsafe(_TOKEN_BYTES), secrets.token_urlsafe(_TOKEN_BYTES)
    key = form.get("key", "").strip()
    visitor = await run_in_threadpool(sign_in, request, key, token, csrf)
    if visitor is None:
        return rendered(
            request,
            None,
            "sign_in.html",
            status=403,
            next=_next(form),
            mistake="This key is unknown, revoked or expired.",
        )
    response = RedirectResponse(_next(form), 303)
    set_cookie(response, services_of(request).settings, request, token)
    return response


async def end_session(request: Request) -> Response:
    """Sign out."""

    def leave(request: Request, visitor: Visitor, _form: Form) -> Response:
        if not visitor.is_local:
            sign_out(request, visitor)
        response = RedirectResponse(address("/sign-in"), 303)
        response.delete_cookie(COOKIE, path=BASE, httponly=True, samesite="strict")
        return response

    return await _acted(request, Scope.RUNS_READ, leave)


def action(
    scope: str, call: Call, payload_times: int = 0
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that does `call`, once per form, for who may and sent one of its own forms.

    `payload_times`: the form has room for so many times the largest payload.
    """

    async def endpoint(request: Request) -> Response:
        return await _acted(request, scope, call, payload_times)

    return endpoint


def looking(
    scope: str, call: Call, payload_times: int = 0
) -> Callable[[Request], Awaitable[Response]]:
    """As `action`, for what a form only looks at: done each time, and its answer is not kept."""

    async def endpoint(request: Request) -> Response:
        return await _acted(request, scope, call, payload_times, is_kept=False)

    return endpoint


def replay_run(request: Request, visitor: Visitor, form: Form) -> Response:
    """Run a failed run again, from where the form says."""
    services = services_of(request)
    run_id = request.path_params["run_id"]
    mode = mode_of(form)
    check_bounds(request, visitor, run_ids=[run_id])
    (answer,) = replay(services.engine, [run_id], mode, reason_of(form), visitor.author.name)
    if not isinstance(answer, Replayed):
        raise not_replayed(run_id, answer.state, answer.why)
    return RedirectResponse(address(f"/runs/{answer.run_id}", done="replayed"), 303)


def cancel_run(request: Request, visitor: Visitor, form: Form) -> Response:
    """Cancel an open run, at once or before its next step."""
    services = services_of(request)
    run_id = request.path_params["run_id"]
    check_bounds(request, visitor, run_ids=[run_id])
    (answer,) = cancel(services.engine, [run_id], reason_of(form), visitor.author.name)
    if not isinstance(answer, Cancelled | CancelRequested):
        raise not_cancelled(run_id, answer.state)
    done = "cancelled" if isinstance(answer, Cancelled) else "cancel-requested"
    return RedirectResponse(address(f"/runs/{answer.run_id}", done=done), 303)


async def _acted(
    request: Request, scope: str, call: Call, payload_times: int = 0, *, is_kept: bool = True
) -> Response:
    visitor = await run_in_threadpool(visitor_of, request)
    if visitor is None:
        check_origin(request)
        return RedirectResponse(address("/sign-in"), 303)
    await _noting(request, visitor, partial(check_origin, request))
    request.app.state.throttle.charge(visitor.author, 1)
    settings = services_of(request).settings
    bytes_max = FORM_BYTES_MAX + payload_times * settings.event_bytes_max
    body, form = await form_of(request, bytes_max)
    await _noting(request, visitor, partial(check_csrf, visitor, form.get("csrf", "")))
    await run_in_threadpool(check_scope, request, visitor, scope)
    request.state.loop = asyncio.get_running_loop()  # for what the thread cannot do itself
    do: Callable[[], Awaitable[Response]] = partial(run_in_threadpool, call, request, visitor, form)
    if not is_kept:
        return await do()
    key = text(form, "once", KEY_CHARS_MAX)
    return await answer_once(request, visitor.author, body, do, key)


async def _noting(request: Request, visitor: Visitor, check: Callable[[], None]) -> None:
    """The check; what it refuses is written down."""
    try:
        check()
    except Problem as refused:
        await run_in_threadpool(note_refused, request, visitor, refused.detail)
        raise


def mode_of(form: Form) -> ReplayMode:
    """From where the form says that a run begins again."""
    try:
        return ReplayMode(form.get("from", ""))
    except ValueError:
        detail = f"from must be {' or '.join(ReplayMode)}"
        raise Problem("invalid-request", detail) from None


def reason_of(form: Form) -> str:
    """Why, as the form says; a 400 Problem when it does not."""
    reason = text(form, "reason")
    if reason is None:
        raise Problem("invalid-request", "a reason is needed: it is kept with what is done")
    return reason


def _next(fields: Mapping[str, str]) -> str:
    """Where to go after signing in: a page of the console, whatever the address says."""
    wanted = fields.get("next", "")
    is_ours = wanted.startswith(f"{BASE}/") and "\\" not in wanted and wanted.isprintable()
    return wanted if is_ours else address("/")
