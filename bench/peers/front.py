"""The HTTP front that all peers share: bench/load.py posts the same bytes to them as to Veltrix."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


class Event(msgspec.Struct):
    """What is kept of an event; `data` is as it was sent."""

    id: str
    data: msgspec.Raw

    @property
    def body(self) -> str:
        """The data as text."""
        return bytes(self.data).decode()


_BATCH = msgspec.json.Decoder(list[Event])
_SINGLE = msgspec.json.Decoder(Event)


def parse(body: bytes, content_type: str) -> list[Event]:
    """The events of a request, one or a batch of CloudEvents."""
    is_batch = content_type.startswith("application/cloudevents-batch")
    return _BATCH.decode(body) if is_batch else [_SINGLE.decode(body)]


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    """What a front that needs no connection of its own opens."""
    yield


def make_front(
    accept: Callable[[Sequence[Event]], Awaitable[None]],
    count_open: Callable[[], Awaitable[int]],
    opened: Callable[[], AbstractAsyncContextManager[None]] = nothing,
) -> Starlette:
    """An application that answers 202 once `accept` has committed, while `opened()` is entered.

    `GET /v1/balance` is what the load generator looks at before each batch.
    """

    async def post(request: Request) -> JSONResponse:
        events = parse(await request.body(), request.headers.get("content-type", ""))
        await accept(events)
        return JSONResponse({"accepted": len(events)}, status_code=202)

    async def balance(_: Request) -> JSONResponse:
        return JSONResponse({"runs": {"open": await count_open()}})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with opened():
            yield

    return Starlette(
        routes=[Route("/v1/events", post, methods=["POST"]), Route("/v1/balance", balance)],
        lifespan=lifespan,
    )
