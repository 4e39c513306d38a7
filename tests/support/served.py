"""The real API on a real port, in a thread of the test."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from threading import Thread
from typing import Any

import msgspec
import uvicorn
from sqlalchemy import Engine

from tests.support.wait import until
from veltrix.api.gate import ConnectionLimits, Gate
from veltrix.bootstrap import event_ids, real_sources
from veltrix.pipeline.accept.writers import Writers
from veltrix.processes.api import config_of, make_app
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine
from veltrix.web.auth import KeyRing, are_keys_required
from veltrix.web.catalog import Catalog
from veltrix.web.services import Services


class Answer(msgspec.Struct):
    """An answer: `body` is the decoded JSON."""

    status: int
    headers: dict[str, str]
    body: Any


class Client:
    """Calls the API at a port."""

    def __init__(self, port: int) -> None:
        self._port = port

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}"

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; `body` is bytes, or encoded as JSON."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            raw = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
            connection.request(method, path, raw, headers or {})
            response = connection.getresponse()
            told = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, told, msgspec.json.decode(response.read()))
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.call("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        """POST."""
        return self.call("POST", path, body, headers)


@contextmanager
def served(engine: Engine, database_url: str, **settings: Any) -> Iterator[Client]:
    """The API on a free port of loopback until the end of the block."""
    given = Settings(database_url=database_url, **settings)
    sources = real_sources()
    acceptor = Writers(
        (
            make_engine(database_url, application="tests-accept"),
            make_engine(database_url, application="tests-accept large"),
        ),
        given,
        event_ids(sources),
        sources.unix_ms,
        lambda _queue, _wanted: 0,
        lambda _runs: None,
    )
    keys = KeyRing(engine, is_required=are_keys_required(given))
    if keys.is_required:
        keys.refresh_once()
    catalog = Catalog(engine, given.subscriptions_cache_s)
    services = Services(given, engine, acceptor, keys, catalog, sources.new_id, lambda: False)
    config = config_of(make_app(services), Gate(ConnectionLimits()))
    config.port = 0
    server = uvicorn.Server(config)
    thread = Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, what="the API's start")
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
