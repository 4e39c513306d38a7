"""Who is calling: API keys, looked up in memory.

The ring of keys is read from the database by a thread, once a second, so a request costs no query
and a revoked key is refused within two seconds. On a loopback address keys are off (the author is
`local`) unless `require_keys` is set, as it should be behind a proxy on the same machine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from threading import Event, Thread
from urllib.parse import urlsplit

import msgspec
from fastapi import Request
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from app.api.auth_failures import AuthFailures
from app.api.problems import Problem
from app.api.queries import check_query
from app.api.refusals import Refusals, route_of
from app.domain.scopes import ALL_SCOPES, Scope, allows
from app.settings import Settings
from app.store import keys as key_rows
from app.store.audit import Audited, storable
from app.store.transactions import open_autocommit
from app.telemetry import logger

REFRESH_S = 1.0
REPEAT_PAUSE_S = 0.1  # before a repeated refusal is answered: who floods is not to delay others
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

_log = logger("api")


class Author(msgspec.Struct, frozen=True):
    """Whose request it is: the key's name, written on runs and actions, and what it may do."""

    name: str
    scopes: frozenset[str]


LOCAL = Author("local", ALL_SCOPES)
LOCAL_HEADERS = ("host", "origin", "sec-fetch-site")
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
_OWN_SITES = frozenset({None, "same-origin", "none"})
_STOP_S = 5.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server listening on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


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
            403,
            "forbidden",
            f"without keys nothing is answered that was forwarded (it has the header {forwarded});"
            " behind a proxy set VELTRIX_REQUIRE_KEYS",
        )
    if host is not None and not _is_local(f"//{host}"):
        raise Problem(
            403,
            "forbidden",
            f"without keys only loopback names are answered, not {host!r}; behind a proxy set"
            " VELTRIX_REQUIRE_KEYS",
        )
    if site not in _OWN_SITES or not (origin is None or _is_own(origin, host)):
        raise Problem(403, "forbidden", "without keys no page of another site is answered")


def forwarding(headers: Mapping[str, str]) -> str | None:
    """The name of a header that says that a proxy passed the request on, if one does."""
    return next((name for name in FORWARDED if name in headers), None)


def _is_own(origin: str, host: str | None) -> bool:
    return _is_local(origin) and host is not None and origin.lower().endswith(f"//{host.lower()}")


@lru_cache(maxsize=64)
def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


class KeyRing:
    """The keys that may call now, at most about a second old. Thread-safe."""

    def __init__(self, engine: Engine, *, is_required: bool) -> None:
        self._engine = engine
        self._authors: dict[bytes, Author] = {}
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
        """Read the keys that are not revoked; how many there are."""
        with open_autocommit(self._engine) as tx:
            rows = key_rows.active(tx)
        self._authors = {row.hash: Author(row.name, frozenset(row.scopes)) for row in rows}
        return len(rows)

    def author_of(self, authorization: str | None) -> Author:
        """The author behind an Authorization header. Raises a 401 Problem when there is none."""
        if not self.is_required:
            return LOCAL
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            self.failures.note("missing")
            raise _unauthorized("send an API key as `Authorization: Bearer KEY`")
        # A look-up by digest tells an attacker nothing by its timing: he cannot choose digests.
        author = self._authors.get(sha256(token.strip().encode("latin-1", "replace")).digest())
        if author is None:
            self.failures.note("unknown")
            raise _unauthorized("the API key is unknown or revoked")
        return author

    def _refresh_until_stopped(self) -> None:
        while not self._stopping.wait(REFRESH_S):
            try:
                self.refresh_once()
            except Exception as error:  # noqa: BLE001 - the last ring stays valid while the database is away
                _log.warning("keys.refresh_failed", error=str(error))


def check_scope(author: Author, scope: str) -> Author:
    """The author, if it may do what `scope` names. Raises a 403 Problem otherwise."""
    if not allows(author.scopes, scope):
        raise Problem(
            403, "forbidden", f"the key {author.name!r} lacks the scope {scope}", scope=scope
        )
    return author


def require(scope: str, *, is_audited: bool = False) -> Callable[[Request], Awaitable[Author]]:
    """A FastAPI dependency: the Author of the request, who may do what `scope` names.

    After that, its query is checked: a parameter that its route does not take is a 400 Problem. A
    refusal of a call that changes something leaves an audit row; `is_audited`: of any other too.
    """

    async def author(request: Request) -> Author:
        keys: KeyRing = request.app.state.services.keys
        if not keys.is_required:
            host, origin, site = map(request.headers.get, LOCAL_HEADERS)
            check_local(host, origin, site, forwarding(request.headers))
        author = keys.author_of(request.headers.get("authorization"))
        if request.method not in _SAFE or is_audited:
            await check_asked(request, author, scope)
        else:
            check_scope(author, scope)
        check_query(request)
        return author

    return author


async def check_asked(request: Request, author: Author, scope: str) -> Author:
    """As `check_audited`, of this request."""
    refusals: Refusals = request.app.state.services.keys.refusals
    method, path = request.method, request.url.path
    return await check_audited(refusals, author, scope, method, path, route_of(request))


async def check_audited(
    refusals: Refusals, author: Author, scope: str, method: str, path: str, route: str
) -> Author:
    """As `check_scope`; the refusal is in the audit before it is answered, or counted there."""
    try:
        return check_scope(author, scope)
    except Problem as refused:
        row = Audited(
            author=author.name,
            action="api.call",
            reason="",
            target="api",
            target_id=f"{method} {path}",
            request={"method": method, "path": storable(path)},
            result={"status": refused.status, "scope": scope},
            is_refused=True,
        )
        if refusals.is_repeat(row, scope, f"{method} {route}"):
            await asyncio.sleep(REPEAT_PAUSE_S)
        else:
            await run_in_threadpool(refusals.write, row)
        raise


def may_see_payloads(author: Author) -> bool:
    """Whether payloads, outputs and the messages of errors are shown to this author."""
    return allows(author.scopes, Scope.PAYLOADS_READ)


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
