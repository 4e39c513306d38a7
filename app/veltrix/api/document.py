"""`/openapi.json`: made once. It takes a tenth of a second, and anybody may ask for it."""

import asyncio

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response


class Document:
    """The OpenAPI document of an application, as bytes. For its event loop."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._made: asyncio.Task[bytes] | None = None

    async def answer(self, _request: Request) -> Response:
        """The document, which all who ask meanwhile wait for, made by a thread."""
        if self._made is None:
            self._made = asyncio.create_task(asyncio.to_thread(self._make))
        return Response(await asyncio.shield(self._made), media_type="application/json")

    def _make(self) -> bytes:
        return msgspec.json.encode(self._app.openapi())
