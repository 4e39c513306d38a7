"""The real application on a real uvicorn, in a thread, on a free port."""

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from random import Random
from threading import Thread
from typing import Any, Protocol

import msgspec
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine

from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.wait import until
from veltrix.api.gate import ConnectionLimits, Gate
from veltrix.domain.ids import EventIds
from veltrix.pipeline.accept.writers import Writers
from veltrix.processes.api import config_of, make_app
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine
from veltrix.web.auth import KeyRing, are_keys_required
from veltrix.web.catalog import Catalog
from veltrix.web.services import Services

USUAL = ConnectionLimits()


class Answer(msgspec.Struct):
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class Api:
    """A running api, and requests to it, each on a connection of its own."""

    def __init__(self, app: FastAPI, server: uvicorn.Server) -> None:
        self.app = app
        self.services: Services = app.state.services
        self._server = server
        self.headers: dict[str, str] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send `body` (bytes as they are, all else as JSON) and read the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, sent, self.headers | (headers or {}))
            response = connection.getresponse()
            text = response.read().decode()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, text)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.request("GET", path, headers=headers)

    def post_event(self, event: Any, **headers: str) -> Answer:
        """POST one event in structured mode."""
        kind = {"content-type": "application/cloudevents+json"}
        return self.request("POST", "/v1/events", event, kind | headers)

    def post_batch(self, events: Any, **headers: str) -> Answer:
        """POST events in batched mode."""
        kind = {"content-type": "application/cloudevents-batch+json"}
        return self.request("POST", "/v1/events", events, kind | headers)

    def start(self, workflow: str, body: Any, **headers: str) -> Answer:
        """POST a start."""
        kind = {"content-type": "application/json"}
        return self.request("POST", f"/v1/workflows/{workflow}/runs", body, kind | headers)


class ApiOf(Protocol):
    """Starts an api with these changes of its settings."""

    def __call__(
        self, *, url: str | None = None, limits: ConnectionLimits = USUAL, **changes: Any
    ) -> Api: ...


@contextmanager
def serving(settings: Settings, limits: ConnectionLimits = USUAL) -> Iterator[Api]:
    """An api with these settings, without a relay thread: everything it accepts is due."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    reads = make_engine(url, application="reads", connections_max=settings.read_connections_max)
    writes = make_engine(url, application="accept"), make_engine(url, application="accept large")
    acceptor = Writers(
        writes,
        settings,
        EventIds(Random(0).getrandbits),
        lambda: time.time_ns() // 1_000_000,
        lambda _queue, _runs: 0,
        lambda _runs: None,
    )
    ring = KeyRing(reads, is_required=are_keys_required(settings))
    if ring.is_required:
        ring.refresh_once()
    catalog = Catalog(reads, settings.subscriptions_cache_s)
    services = Services(
        settings, reads, acceptor, ring, catalog, lambda: str(uuid.uuid4()), lambda: False
    )
    app = make_app(services)
    config = config_of(app, Gate(limits))
    config.port, config.log_level = 0, "error"
    server = uvicorn.Server(config)
    factory = config.get_loop_factory()

    def serve() -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(server.serve())

    thread = Thread(target=serve)
    thread.start()
    try:
        until(lambda: server.started, what="the api to start")
        yield Api(app, server)
    finally:
        server.should_exit = True
        thread.join()
        reads.dispose()
        for engine in writes:
            engine.dispose()


@pytest.fixture
def api_of(database_url: str) -> Iterator[ApiOf]:
    """Start apis on this test's database."""
    running: list[Any] = []

    def start(*, url: str | None = None, limits: ConnectionLimits = USUAL, **changes: Any) -> Api:
        given = {"database_url": url or database_url, "broker_url": "amqp://127.0.0.1:1/"}
        context = serving(Settings(**(given | changes)), limits)
        running.append(context)
        return context.__enter__()

    yield start
    for context in running:
        context.__exit__(None, None, None)


@pytest.fixture
def api(engine: Engine, api_of: ApiOf) -> Api:
    """An api that knows the workflow `fulfil`, which PLACED starts."""
    schema = {
        "type": "object",
        "required": ["order"],
        "properties": {"order": {"type": "integer"}},
    }
    subscribe(
        engine,
        subscription("fulfil", PLACED, input_schema=schema),
        subscription("report", queue="reports"),
    )
    return api_of()
