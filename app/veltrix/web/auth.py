"""Who is calling: API keys, looked up in memory.

The ring of keys is read from the database by a thread, once a second, so a request costs no query
and a revoked key is refused within two seconds. On a loopback address keys are off (the author is
`local`) unless `require_keys` is set, as it should be behind a proxy on the same machine.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from math import inf
from threading import Event, Thread
from time import monotonic
from typing import Any

import msgspec
from fastapi import Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope as AsgiScope

from veltrix.access import keys as key_rows
from veltrix.access.audit import Audited, storable
from veltrix.access.key_limits import KeyLimits
from veltrix.access.scopes import ALL_SCOPES, Scope, allows
from veltrix.domain.local_names import is_host, is_local, is_loopback
from veltrix.settings.fields import Settings
from veltrix.store.transactions import open_autocommit
from veltrix.telemetry import key_expires_seconds, logger
from veltrix.web.auth_failures import AuthFailures
from veltrix.web.problems import Problem
from veltrix.web.queries import check_query
from veltrix.web.refusals import Refusals, route_of

REFRESH_S = 1.0
REPEAT_PAUSE_S = 0.1  # before a repeated refusal is answered: who floods is not to delay others
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_log = logger("api")


class Author(msgspec.Struct, frozen=True):
    """Whose request it is: the key's name, written on runs and actions, and what it may do."""

    name: str
    scopes: frozenset[str]
    limits: KeyLimits | None = None


LOCAL = Author("local", ALL_SCOPES)
AUTHOR = "veltrix.author"  # where the door puts an Author, or None, into a request's scope
_OWN_SITES = frozenset({None, "same-origin", "none"})
_STOP_S = 5.0


def are_keys_required(settings: Settings) -> bool:
    """Whether a request must carry a key."""
    return settings.require_keys or not is_loopback(settings.api_host)


def check_local(
    host: str | None, origin: str | None, site: str | None, forwarded: str | None = None
) -> None:
    """Where keys are off, nobody acts from elsewhere: no web page, and nobody behind a proxy.

    Raises a 403 Problem for another name than a loopback one, which somebody made point here, for
    what a page of another site or port sends, and for what a proxy passed on: `host`, `origin` and
    `site` (Sec-Fetch-Site) are the request's headers, `forwarded` is the name of one that only
    proxies send. Programs send none of the last three.
    """
    if forwarded is not None:
        raise Problem(
            "forbidden",
            f"without keys nothing is answered that was forwarded (it has the header {forwarded});"
            " behind a proxy set VELTRIX_REQUIRE_KEYS",
        )
    if host is not None and not (is_host(host) and is_local(f"//{host}")):
        raise Problem(
            "forbidden",
            f"without keys only loopback names are answered, not {host!r}; behind a proxy set"
            " VELTRIX_REQUIRE_KEYS",
        )
    if site not in _OWN_SITES or not (origin is None or _is_own(origin, host)):
        raise Problem(
            "forbidden",
            "without keys no page of another site is answered; set VELTRIX_REQUIRE_KEYS, and let"
            " it send a key",
        )


def _is_own(origin: str, host: str | None) -> bool:
    return is_local(origin) and host is not None and origin.lower().endswith(f"//{host.lower()}")


class _Held(msgspec.Struct, frozen=True):
    """Whose a key is, and until when, by this process's steady clock."""

    author: Author
    ends_at: float = inf
    expires_at: datetime | None = None


class KeyRing:
    """The keys that may call now, at most about a second old. Thread-safe.

    A key ends to the moment that the database's clock says, also while the database is away.
    """

    def __init__(self, engine: Engine, *, is_required: bool) -> None:
        self._engine = engine
        self._held: dict[bytes, _Held] = {}
        self._stopping = Event()
        self._thread = Thread(target=self._refresh_until_stopped, name="keys", daemon=True)
        self.is_required = is_required
        self.refusals = Refusals(engine)
        self.failures = AuthFailures()

    def start(self) -> None:
        """Keep the ring fresh from now on, where keys are asked for; write down what is refused."""
        self.refusals.start()
        if self.is_required:
            self._thread.start()

    def stop(self) -> None:
        """Stop refreshing; the threads end, or are left with a database that does not answer."""
        self.refusals.stop()
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def refresh_once(self) -> int:
        """Read the keys that are not revoked; how many may call."""
        with open_autocommit(self._engine) as tx:
            before = monotonic()
            rows = key_rows.active(tx)
        self._held = {
            row.hash: _Held(
                Author(row.name, frozenset(row.scopes), row.limits),
                inf if row.left_s is None else before + row.left_s,
                row.expires_at,
            )
            for row in rows
        }
        lefts = [inf if row.left_s is None else row.left_s for row in rows]
        key_expires_seconds.set(min((left for left in lefts if left > 0), default=inf))
        return sum(left > 0 for left in lefts)

    def author_of(self, authorization: str | None) -> Author:
        """The author behind an Authorization header. Raises a 401 Problem when there is none."""
        if not self.is_required:
            return LOCAL
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            self.failures.note("missing")
            raise _unauthorized("send an API key as `Authorization: Bearer KEY`")
        # A look-up by digest tells an attacker nothing by its timing: he cannot choose digests.
        held = self._held.get(sha256(token.strip().encode("latin-1", "replace")).digest())
        if held is None:
            self.failures.note("unknown")
            raise _unauthorized("the API key is unknown or revoked")
        if held.ends_at <= monotonic():
            self.failures.note("expired")
            raise _unauthorized(
                f"the API key {held.author.name!r} expired at {_time_text(held.expires_at)};"
                " who makes keys can make the next one"
            )
        return held.author

    def _refresh_until_stopped(self) -> None:
        while not self._stopping.wait(REFRESH_S):
            try:
                self.refresh_once()
            except Exception as error:  # noqa: BLE001 - the last ring stays valid while the database is away
                _log.warning("keys.refresh_failed", error=str(error))


def author_at(scope: AsgiScope) -> Author:
    """Who was let in with this request. Raises a 401 Problem: nobody had to say who he is."""
    author: Author | None = scope.get(AUTHOR)
    if author is None:
        raise _unauthorized("send an API key as `Authorization: Bearer KEY`")
    return author


def check_scope(author: Author, scope: str) -> Author:
    """The author, if it may do what `scope` names. Raises a 403 Problem otherwise."""
    if not allows(author.scopes, scope):
        raise Problem(
            "forbidden",
            f"the key {author.name!r} lacks the scope {scope}; use one that has it",
            scope=scope,
        )
    return author


def require(scope: str, *, is_audited: bool = False) -> Callable[[Request], Awaitable[Author]]:
    """A FastAPI dependency: the Author of the request, who may do what `scope` names.

    After that, its query is checked: a parameter that its route does not take is a 400 Problem. A
    refusal of a call that changes something leaves an audit row; `is_audited`: of any other too.
    """

    async def author(request: Request) -> Author:
        author = author_at(request.scope)
        if request.method not in _SAFE or is_audited:
            await check_asked(request, author, scope)
        else:
            check_scope(author, scope)
        check_query(request)
        return author

    return author


async def check_asked(request: Request, author: Author, scope: str) -> Author:
    """As `check_scope`; the refusal is in the audit before it is answered, or counted there."""
    try:
        return check_scope(author, scope)
    except Problem as refused:
        result = {"status": refused.status, "scope": scope}
        await note_refused(request, author, scope, result)
        raise


async def note_refused(request: Request, author: Author, why: str, result: dict[str, Any]) -> None:
    """Write a refused call down, or count it beside its like of the same minute.

    A repeat takes a moment, so that who floods does not delay others.
    """
    refusals: Refusals = request.app.state.services.keys.refusals
    method, path = request.method, request.scope["path"]
    row = Audited(
        author=author.name,
        action="api.call",
        reason="",
        target="api",
        target_id=f"{method} {path}",
        request={"method": method, "path": storable(path)},
        result=result,
        is_refused=True,
    )
    if refusals.is_repeat(row, why, f"{method} {route_of(request)}"):
        await asyncio.sleep(REPEAT_PAUSE_S)
    else:
        await run_in_threadpool(refusals.write, row)


def may_see_payloads(author: Author) -> bool:
    """Whether payloads, outputs and the messages of errors are shown to this author."""
    return allows(author.scopes, Scope.PAYLOADS_READ)


def _time_text(time: datetime | None) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if time is not None else "a time"


def _unauthorized(detail: str) -> Problem:
    return Problem("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
