"""What is asked most goes straight to its answer.

FastAPI and Starlette pass a request through eight layers, which takes longer than reading an event
and ten times as long as saying that an api is ready, which anybody may ask.
"""

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from veltrix.api.events import EventsEndpoint
from veltrix.api.health import READY_PATH, readiness
from veltrix.web.methods import EVENTS_PATH
from veltrix.web.problems import problem_of

_EVENTS, _READY = ("POST", EVENTS_PATH), ("GET", READY_PATH)


class Direct:
    """The application that a server calls, in front of `app`, whose state the endpoints use.

    Whatever is asked in another way than usual is answered by `app`.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app, self._events = app, EventsEndpoint()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or go through one lifespan."""
        asked = (scope.get("method"), scope.get("path"))
        if asked == _EVENTS:
            scope["app"] = self._app
            await self._events(scope, receive, send)
        elif asked == _READY and not scope["query_string"]:
            try:
                answer = await readiness(self._app.state)
            except Exception as error:  # noqa: BLE001 - a caller sees a problem, never a bare 500
                answer = problem_of(error).response()
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)
