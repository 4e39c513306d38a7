"""What may be done with a path: `HEAD` wherever there is a `GET`, and `OPTIONS` says all of it.

A sender of webhooks asks by `OPTIONS` whether it may deliver (CloudEvents, HTTP 1.1 Web Hooks for
Event Delivery, 4): Azure Event Grid does before it sends anything.
"""

import asyncio
from collections.abc import Iterable
from typing import cast

from starlette.routing import BaseRoute, Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVENTS_PATH = "/v1/events"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Methods:
    """An application with `HEAD` and `OPTIONS` beside what `app` has.

    `routes` are those of `app`; `origins` are the senders of webhooks that may deliver, `*` all.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], origins: str) -> None:
        self._app, self._routes = app, routes
        self._origins = {one.strip().lower() for one in origins.split(",") if one.strip()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or go through one lifespan."""
        method = scope.get("method")
        if method == "HEAD":
            await self._head(scope, receive, send)
        elif method == "OPTIONS" and (methods := allowed(self._routes, scope)):
            headers = [(b"allow", ", ".join(methods).encode()), (b"content-length", b"0")]
            if scope["path"] == EVENTS_PATH:
                headers += self._handshake(scope)
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a `GET` begins with. One that would go on for ever is told that nobody listens."""
        is_answered = asyncio.Event()

        async def receive_until_answered() -> Message:
            if not is_answered.is_set():
                waiting = {
                    asyncio.ensure_future(receive()),
                    asyncio.ensure_future(is_answered.wait()),
                }
                try:
                    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in waiting:
                        one.cancel()
                found = [one.result() for one in done if isinstance(one.result(), dict)]
                if found and not is_answered.is_set():
                    return cast(Message, found[0])
            return {"type": "http.disconnect"}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_answered.is_set():
                is_answered.set()
                await send(message)
                await send({"type": "http.response.body", "body": b""})

        await self._app({**scope, "method": "GET"}, receive_until_answered, send_head)

    def _handshake(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        asked = [value for name, value in scope["headers"] if name == b"webhook-request-origin"]
        if len(asked) != 1:
            return []
        origin = asked[0].decode("latin-1").strip().lower()
        if "*" not in self._origins and origin not in self._origins:
            return []
        return [(b"webhook-allowed-origin", asked[0]), (b"webhook-allowed-rate", b"*")]


def allowed(routes: Iterable[BaseRoute], scope: Scope) -> list[str]:
    """The methods of a path, of all routes that have it; none: nothing is there."""
    here = [route for route in routes if not isinstance(route, Mount)]
    found = {
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in here)
    }
    if not found:
        return []
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))
