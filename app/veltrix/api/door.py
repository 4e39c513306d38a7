"""The door of an api: who is let in, by one rule for every path, also for those that are to come.

Without keys: loopback names only, and nothing that was forwarded; to what reads or changes, no page
of another site either. With keys: a key. But for what is open, which tells nothing of what the
platform holds; for the console, which asks whoever comes to sign in; for `OPTIONS`, which tells
what the documentation does; and for metrics, from the addresses of VELTRIX_METRICS_ADDRESSES.
"""

from enum import Enum
from ipaddress import ip_address

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from veltrix.access.scopes import Scope as KeyScope
from veltrix.domain.local_names import FORWARDED, FORWARDED_PREFIX, is_host, networks_of
from veltrix.web.auth import AUTHOR, LOCAL, Author, check_local
from veltrix.web.methods import EVENTS_PATH
from veltrix.web.problems import Problem
from veltrix.web.throttle import Throttle

METRICS_PATH = "/metrics"
PARAMETERS_MAX = 100
SCRAPER = Author("metrics", frozenset({KeyScope.METRICS_READ.value}))
_OPEN = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"})
_OPEN_UNDER = ("/docs/", "/static-offline-docs/")  # the files of the documentation's page
_FORWARDED = frozenset(name.encode() for name in FORWARDED)
_FORWARDED_PREFIX = FORWARDED_PREFIX.encode()

# What a browser may do with an answer: nothing, and with the documentation's page what that does.
_NO_PAGE = b"default-src 'none'; frame-ancestors 'none'"
_DOCS_PAGE = (
    b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline';"
    b" img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none';"
    b" base-uri 'none'"
)
_GUARDS = [(b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY")]


class Doorway(Enum):
    """Who may come to a path where keys are asked for."""

    OPEN = "open"  # whoever wants
    CONSOLE = "console"  # whoever wants; it asks by itself
    METRICS = "metrics"  # a key, or an address that is named
    KEY = "key"  # a key


class Door:
    """The application that a server calls: `app` behind its door.

    `state` has the services, and the throttle of keys; `console` is where the console is.
    """

    def __init__(self, app: ASGIApp, state: State, console: str) -> None:
        self._app, self._state, self._console = app, state, console
        self._scrapers = networks_of(state.services.settings.metrics_addresses)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or go through one lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        throttle: Throttle = self._state.throttle
        is_hot = scope["path"] == EVENTS_PATH and scope["method"] == "POST"
        rule = Doorway.KEY if is_hot else self._rule_of(scope["path"])
        try:
            _check_query(scope["query_string"])
            author = self._admitted(scope, rule)
            throttle.enter(author)
        except Problem as refused:
            await refused.response()(scope, receive, _guarded(send, is_page=False))
            return
        scope[AUTHOR] = author
        if not is_hot and rule is not Doorway.CONSOLE:  # where cookies say something
            scope["headers"] = _without_cookies(scope["headers"])
        if not is_hot and rule is not Doorway.CONSOLE:  # which guards its pages itself
            send = _guarded(send, is_page=rule is Doorway.OPEN)
        try:
            await self._app(scope, receive, send)
        finally:
            throttle.leave(author)

    def _rule_of(self, path: str) -> Doorway:
        if path in _OPEN or path.startswith(_OPEN_UNDER):
            return Doorway.OPEN
        if path == self._console or path.startswith(f"{self._console}/"):
            return Doorway.CONSOLE
        return Doorway.METRICS if path == METRICS_PATH else Doorway.KEY

    def _admitted(self, scope: Scope, rule: Doorway) -> Author | None:
        """Who asks; None: whoever it is. Raises a 400, 401 or 403 Problem."""
        authorization = host = origin = site = forwarded = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"sec-fetch-site":
                site = value.decode("latin-1")
            elif name in _FORWARDED or name.startswith(_FORWARDED_PREFIX):
                forwarded = name.decode("latin-1")
        keys = self._state.services.keys
        is_open = rule is Doorway.OPEN or rule is Doorway.CONSOLE or scope["method"] == "OPTIONS"
        if not keys.is_required:
            # A link of another page may lead to what is open. What the console changes it checks.
            check_local(host, *((None, None) if is_open else (origin, site)), forwarded)
            return LOCAL
        if host is not None and not is_host(host):  # no URL can be made of it
            raise Problem(
                "bad-request",
                f"the Host header is {host!r}, which is no host name: look at the client or proxy",
            )
        if is_open:
            return None
        if rule is Doorway.METRICS and forwarded is None and self._is_scraper(scope.get("client")):
            return SCRAPER
        admitted: Author = keys.author_of(authorization)
        return admitted

    def _is_scraper(self, client: tuple[str, int] | None) -> bool:
        if client is None or not self._scrapers:
            return False
        address = ip_address(client[0].partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._scrapers)


def _check_query(query: bytes) -> None:
    """FastAPI takes every query apart, also where nothing is asked. Raises a 400 Problem."""
    if query.count(b"&") >= PARAMETERS_MAX:
        raise Problem(
            "bad-request", f"a query has at most {PARAMETERS_MAX} parameters; leave some out"
        )


def _without_cookies(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """FastAPI reads cookies whatever is asked, in a time that is the square of their length."""
    return [one for one in headers if one[0] != b"cookie"]


def _guarded(send: Send, *, is_page: bool) -> Send:
    """`send`, with what keeps browsers from doing more with the answer than is meant."""
    policy = (b"content-security-policy", _DOCS_PAGE if is_page else _NO_PAGE)

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *_GUARDS, policy]
            message = {**message, "headers": headers}
        await send(message)

    return guarded
