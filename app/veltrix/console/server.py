"""The console as an application that the api carries at /console."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders, State
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from veltrix.access.scopes import Scope as KeyScope
from veltrix.console import (
    actions,
    bulk,
    editing,
    failures,
    patching,
    replays,
    retention,
    run_view,
    views,
    workflow_view,
)
from veltrix.console.live import Live
from veltrix.console.rendering import BASE, STATIC, address, rendered
from veltrix.console.sessions import Visitor, check_scope, visitor_of
from veltrix.web.problems import Problem, problem_of

__all__ = ["BASE", "make_console"]

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src"
    " 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# A browser leaves the session's cookie out when another site leads here. The next look, by the page
# itself, has it.
_AGAIN = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Veltrix</title>'
    '<meta http-equiv="refresh" content="0"></head><body><p>One moment.</p></body></html>'
)

Page = Callable[[Request, Visitor], Response]
SavedList = Callable[[Request, Visitor, str], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


_VIEWS: dict[str, Page] = {
    "/": run_view.overview,
    "/runs": views.runs,
    "/runs/{run_id}": run_view.run,
    "/events": views.events,
    "/events/{event_id}": views.event,
    "/workflows": views.workflows,
    "/workflows/{name:path}": workflow_view.workflow,
    "/audit": views.audit_rows,
    "/audit/{row_id}": views.audit_row,
    "/failures": failures.groups,
    "/failures/{group_id}": failures.group,
    "/replays": failures.replays,
    "/replays/{replay_id}": failures.one_replay,
    "/retention": retention.retention,
    "/search": views.found,
    "/deliveries/{delivery_id}": views.delivery,
    "/flower": views.flower,
}
_FILES: dict[str, SavedList] = {
    "runs": views.runs_file,
    "events": views.events_file,
    "failures": failures.groups_file,
    "replays": failures.replays_file,
    "workflows": views.workflows_file,
    "audit": views.audit_file,
    "replays/{replay_id}/runs": failures.replayed_runs_file,
}
# What asks before it acts, and the act.
_ASKED: dict[str, tuple[Page, actions.Call]] = {
    "/runs/{run_id}/replay": (run_view.confirm_replay, actions.replay_run),
    "/runs/{run_id}/cancel": (run_view.confirm_cancel, actions.cancel_run),
    "/bulk/{verb}": (bulk.confirm_bulk, bulk.act_in_bulk),
}
_ACTS: dict[str, actions.Call] = {
    "/failures/{group_id}/plan": replays.plan_group,
    "/failures/{group_id}/{verb}": replays.act_on_group,
    "/replays/{replay_id}/{verb}": replays.act_on_replay,
}


def make_console(state: State) -> ASGIApp:
    """The application; `state` is the api's own, whose services may follow later."""
    routes: list[Route | Mount] = [Route(path, view(page)) for path, page in _VIEWS.items()]
    for name, file in _FILES.items():
        routes += [_saved(name, file, suffix) for suffix in ("csv", "json")]
    for path, (page, call) in _ASKED.items():
        routes += [Route(path, view(page, KeyScope.RUNS_REPLAY), methods=["GET"]), _act(path, call)]
    routes += _edits("/runs/{run_id}/edit", editing.edit_form, editing.edit_run)
    routes += _edits("/failures/{group_id}/edit", patching.patch_form, patching.plan_patch)
    look = actions.looking(KeyScope.RUNS_EDIT, patching.preview_patch, editing.PAYLOAD_TIMES)
    routes.append(
        Route("/failures/{group_id}/edit/preview", with_error_page(look), methods=["POST"])
    )
    routes += [_act(path, call) for path, call in _ACTS.items()]
    set_retention = actions.action(KeyScope.ADMIN, retention.set_retention)
    routes.append(Route("/retention", with_error_page(set_retention), methods=["POST"]))
    start = actions.action(KeyScope.EVENTS_WRITE, workflow_view.start, editing.PAYLOAD_TIMES)
    routes.append(Route("/workflows/{name:path}", with_error_page(start), methods=["POST"]))
    routes += [
        Route("/live", with_error_page(run_view.live_figures)),
        Route("/live/moves", with_error_page(run_view.live_moves)),
        Route("/sign-in", with_error_page(_in_thread(actions.sign_in_page)), methods=["GET"]),
        Route("/sign-in", with_error_page(actions.begin_session), methods=["POST"]),
        Route("/sign-out", with_error_page(actions.end_session), methods=["POST"]),
        Mount("/static", _Files(directory=STATIC)),
        Route("/{path:path}", view(_nothing)),
    ]
    console = Starlette(routes=routes)
    console.state = state
    state.csrf = secrets.token_urlsafe(32)
    return _Secured(console)


def view(page: Page, scope: str = KeyScope.RUNS_READ) -> Endpoint:
    """An endpoint that shows `page` to who may see it; who is not signed in is asked to."""

    async def endpoint(request: Request) -> Response:
        visitor = await run_in_threadpool(visitor_of, request)
        if visitor is None:
            return _to_sign_in(request)
        request.app.state.throttle.charge(visitor.author, 1)
        await run_in_threadpool(check_scope, request, visitor, scope)
        return await run_in_threadpool(page, request, visitor)

    return with_error_page(endpoint)


def with_error_page(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with a page that says what is wrong for everything that can be."""

    async def answered(request: Request) -> Response:
        _live(request)
        try:
            return await endpoint(request)
        except Exception as error:  # noqa: BLE001 - a person sees a page, never a bare 500
            return await run_in_threadpool(_error_page, request, problem_of(error))

    return answered


def _saved(name: str, file: SavedList, suffix: str) -> Route:
    def page(request: Request, visitor: Visitor) -> Response:
        return file(request, visitor, suffix)

    return Route(f"/{name}.{suffix}", view(page))


def _act(path: str, call: actions.Call) -> Route:
    return Route(
        path, with_error_page(actions.action(KeyScope.RUNS_REPLAY, call)), methods=["POST"]
    )


def _edits(path: str, page: Page, call: actions.Call) -> list[Route]:
    act = actions.action(KeyScope.RUNS_EDIT, call, editing.PAYLOAD_TIMES)
    return [
        Route(path, view(page, KeyScope.RUNS_EDIT), methods=["GET"]),
        Route(path, with_error_page(act), methods=["POST"]),
    ]


def _live(request: Request) -> None:
    """The figures of this api, made when somebody first looks."""
    state = request.app.state
    if not hasattr(state, "live"):
        state.live = Live(state.services.engine, state.services.is_broker_up)


def _in_thread(page: Callable[[Request], Response]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(page, request)

    return endpoint


def _nothing(request: Request, _visitor: Visitor) -> Response:
    raise Problem("not-found", f"the console has no page {request.url.path}")


def _to_sign_in(request: Request) -> Response:
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    there = address("/sign-in", next=None if here == f"{BASE}/" else here)
    if request.headers.get("hx-request") == "true":
        return Response(status_code=401, headers={"HX-Redirect": there})
    if request.headers.get("sec-fetch-site") == "cross-site":
        return HTMLResponse(_AGAIN)
    return RedirectResponse(there, 303)


def _error_page(request: Request, problem: Problem) -> Response:
    """The problem as a page, in the frame of who is signed in, if that can be known now."""
    try:
        visitor = visitor_of(request)
    except Exception:  # noqa: BLE001 - the database is away, or this is what the problem is
        visitor = None
    response = rendered(request, visitor, "error.html", status=problem.status, problem=problem)
    response.headers.update(problem.headers)
    return response


class _Files(StaticFiles):
    """Files of ours, whose address has their digest: a browser asks once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, to be kept."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


class _Secured:
    """Adds to every answer what keeps browsers from doing more than the page says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, secured)
