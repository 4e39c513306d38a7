"""Who looks at the console: signed in with an API key, or `local` where keys are off.

A browser has a random token in a cookie that no script can read and that no other site's request
carries. What changes something carries the session's other token, from the form, and comes from a
page of the same host.
"""

from hmac import compare_digest
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from veltrix.access import audit, sessions
from veltrix.access.audit import Audited
from veltrix.access.scopes import Scope, allows
from veltrix.access.sessions import Session
from veltrix.console.query import cookie_of
from veltrix.store.transactions import open_autocommit, transaction
from veltrix.web.auth import LOCAL, Author
from veltrix.web.bounds import check_touched
from veltrix.web.problems import Problem
from veltrix.web.refusals import route_of
from veltrix.web.services import services_of

if TYPE_CHECKING:
    from veltrix.settings.fields import Settings

COOKIE = "veltrix_session"
_SAME_SITE = {"same-origin", "none"}
_SHOWING = {Scope.PAYLOADS_READ, Scope.RUNS_EDIT}  # what they lead to shows payloads


class Visitor(msgspec.Struct, frozen=True):
    """Whose page it is. `csrf` is what its forms carry; `is_local`: nobody had to sign in."""

    author: Author
    csrf: str
    is_local: bool = False

    def may(self, scope: str) -> bool:
        """Whether it may do what `scope` names."""
        return allows(self.author.scopes, scope)

    @property
    def sees_payloads(self) -> bool:
        """Whether payloads, outputs and messages are shown to it."""
        return self.may(Scope.PAYLOADS_READ)


def visitor_of(request: Request) -> Visitor | None:
    """The visitor, by one look at the database; None: nobody is signed in."""
    services = services_of(request)
    if not services.keys.is_required:
        return Visitor(LOCAL, request.app.state.csrf, is_local=True)
    token = cookie_of(request, COOKIE)
    if not token:
        return None
    with open_autocommit(services.engine) as tx:
        session = sessions.find(tx, token)
    if session is None:
        return None
    return _visitor(session)


def _visitor(session: Session) -> Visitor:
    author = Author(session.key_name, frozenset(session.scopes), session.limits)
    return Visitor(author, session.csrf)


def sign_in(request: Request, key: str, token: str, csrf: str) -> Visitor | None:
    """Open a session for who has this API key; None: no key that may call is this one.

    Raises a 403 Problem, and writes it down, when the key may not read.
    """
    services = services_of(request)
    with transaction(services.engine) as tx:
        session = sessions.make(tx, key, token, csrf, services.settings.console_session_s)
        if session is None:
            services.keys.failures.note("sign_in")
            return None
        is_reader = allows(session.scopes, Scope.RUNS_READ)
        if not is_reader:
            sessions.end(tx, token)
        made = Audited(
            author=session.key_name,
            action="session.begin",
            reason="signed in to the console",
            target="session",
            result={"expires_at": session.expires_at} if is_reader else {"lacks": "runs:read"},
            is_refused=not is_reader,
        )
        refusals = services.keys.refusals
        if is_reader and not refusals.is_repeat(made, made.action, "sign-in"):
            audit.append(tx, [made])
    if not is_reader:
        refusals.note(made, Scope.RUNS_READ, "sign-in")
        raise lacking(session.key_name, Scope.RUNS_READ)
    return _visitor(session)


def sign_out(request: Request, visitor: Visitor) -> None:
    """End the session of this request."""
    services = services_of(request)
    with transaction(services.engine) as tx:
        sessions.end(tx, cookie_of(request, COOKIE) or "")
        ended = Audited(
            author=visitor.author.name,
            action="session.end",
            reason="signed out of the console",
            target="session",
        )
        if not services.keys.refusals.is_repeat(ended, ended.action, "sign-out"):
            audit.append(tx, [ended])


def check_scope(request: Request, visitor: Visitor, scope: str) -> None:
    """Nothing, if the visitor may. Raises a 403 Problem otherwise.

    The refusal of an action, or of what would have shown a payload, is written down.
    """
    if visitor.may(scope):
        return
    if request.method != "GET" or scope in _SHOWING:
        note_refused(request, visitor, f"lacks the scope {scope}")
    raise lacking(visitor.author.name, scope)


def check_bounds(request: Request, visitor: Visitor, **touched: Any) -> None:
    """As `veltrix.web.bounds.check_touched`; the refusal is written down."""
    try:
        check_touched(services_of(request).engine, visitor.author, **touched)
    except Problem as refused:
        note_refused(request, visitor, refused.detail)
        raise


def note_refused(request: Request, visitor: Visitor, why: str) -> None:
    """An action that was refused before it began is in the audit, or counted there."""
    services = services_of(request)
    refused = Audited(
        author=visitor.author.name,
        action="console.act",
        reason=why,
        target="console",
        target_id=request.url.path,
        is_refused=True,
    )
    services.keys.refusals.note(refused, why, route_of(request))


def lacking(name: str, scope: str) -> Problem:
    """403: the key may not do this; whoever makes keys can give it one that may."""
    return Problem(
        "forbidden",
        f"the key {name!r} lacks the scope {scope}; sign in with one that has it",
        scope=scope,
    )


def check_origin(request: Request) -> None:
    """Raises a 403 Problem when a page of another site sent this form."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    is_other = site is not None and site not in _SAME_SITE
    if site is None and origin is not None:
        is_other = urlsplit(origin).netloc != request.headers.get("host")
    if is_other:
        raise Problem("forbidden", "this form was sent by a page of another site")


def check_csrf(visitor: Visitor, token: str) -> None:
    """Raises a 403 Problem when the form is not one of this session's."""
    if not compare_digest(visitor.csrf.encode(), token.encode("utf-8", "replace")):
        raise Problem(
            "forbidden",
            "this form belongs to a session that is over; open the page again and repeat it",
        )


def set_cookie(response: Response, settings: "Settings", request: Request, token: str) -> None:
    """The cookie of the session; for https only where the console is reached by https."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(settings.console_session_s),
        path="/console",
        httponly=True,
        samesite="strict",
        secure=is_https(settings, request),
    )


def is_https(settings: "Settings", request: Request) -> bool:
    """Whether browsers reach the console by https: itself, or a proxy before it that says so."""
    return request.url.scheme == "https" or (settings.console_url or "").startswith("https:")
