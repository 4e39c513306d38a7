"""The api: an application around its services, and the process that serves it."""

import asyncio
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from types import FrameType

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from veltrix.access import keys
from veltrix.access.audit import Audited, append
from veltrix.access.keys import KeyRefused
from veltrix.api import (
    audit,
    balance,
    bulk,
    dead_letters,
    doctor,
    edits,
    event_reads,
    failures,
    health,
    queues,
    replays,
    retention,
    runs,
    starts,
    workers,
    workflows,
)
from veltrix.api.connection import ApiConnection
from veltrix.api.direct import Direct
from veltrix.api.document import Document
from veltrix.api.door import Door
from veltrix.api.events import EventsEndpoint
from veltrix.api.gate import ConnectionLimits, Gate
from veltrix.api.handshakes import TlsServer
from veltrix.api.looks import Looks
from veltrix.api.openapi import document_of
from veltrix.bootstrap import collect_rarely, engine_for, event_ids, real_sources, say_powers
from veltrix.console.server import BASE, make_console
from veltrix.doctor.starting import check_start
from veltrix.leaving import end_within
from veltrix.pipeline.accept.writers import Writers
from veltrix.pipeline.relay.hints import HintRelay
from veltrix.settings.fields import Settings
from veltrix.settings.links import link_warnings, open_warnings
from veltrix.settings.load import require
from veltrix.store.transactions import is_away, transaction
from veltrix.telemetry import configure_logs, database_connections, logger
from veltrix.tls import Certificate, CertificateRefused
from veltrix.web import problems
from veltrix.web.auth import KeyRing, are_keys_required
from veltrix.web.bodies import BodyReader
from veltrix.web.catalog import Catalog
from veltrix.web.methods import EVENTS_PATH, Methods
from veltrix.web.services import Services
from veltrix.web.throttle import Throttle

# After SIGTERM `/readyz` says 503 for so long while requests are still taken. A balancer that asks
# each second and believes two answers (haproxy.cfg) has stopped sending after at most 2 s and the
# time of two answers; the third second is for those.
LEAVE_S = 3.0
GRACE_S = 10  # for requests in hand after that
END_S = 4.0  # for what is left then; after that the process is ended
# Longer than load balancers keep an idle connection (haproxy.cfg: 60 s): the side that sends
# requests should be the one that closes, or a request and the closing pass each other.
KEEP_ALIVE_S = 75
HEALTH_S = 2.0  # for the question whether the database is there
FILES_SPARE = 128  # of an api besides its connections: PostgreSQL, RabbitMQ, logs, libraries
# Asked for, for the answers to one client that does not read them: the kernel takes twice that, and
# would take megabytes. After that the next answer waits; it bounds what a fast reader far away gets
# to as much for each round trip.
UNREAD_BYTES_MAX = 256 * 1024
SWITCH_S = 0.0005  # two threads share the interpreter: a commit's answer must not wait 5 ms for it

_ADMIN_KEY = Audited(
    author="VELTRIX_ADMIN_KEY_FILE",
    action="key.create",
    reason="",
    target="key",
    target_id=keys.ADMIN_NAME,
    request={"scopes": ["admin"]},
)

PARTS = (
    *(event_reads, workflows, starts, bulk, runs, edits, failures, replays),
    *(dead_letters, workers, queues, retention, audit, balance, doctor, health),
)

_log = logger("api")

Act = Callable[[], object]


class StartRefused(Exception):
    """The server does not start; the message says why and how it would."""


def make_app(services: Services) -> FastAPI:
    """The ASGI application; its lifespan starts and stops the writers and the ring of keys."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        services.keys.start()
        services.acceptor.start()
        yield
        await asyncio.to_thread(services.acceptor.stop)
        await asyncio.to_thread(services.keys.stop)
        await asyncio.to_thread(app.state.looks.close)

    # FastAPI's own page loads its scripts from another host; this one has them with it.
    app = FastAPIOffline(docs_url="/docs", redoc_url=None, title="Veltrix", lifespan=lifespan)
    app.router.redirect_slashes = False  # to whatever the Host header says
    app.state.services = services
    app.state.is_leaving = False
    app.state.looks = Looks(
        engine_for(services.settings, "veltrix-api health", statement_timeout_s=HEALTH_S)
    )
    app.state.bodies = BodyReader(services.settings.accept_waiting_bytes_max)
    app.state.throttle = Throttle(services.settings.api_key_requests_max)
    add_routes(app)
    origins = services.settings.webhook_origins
    app.add_middleware(Methods, routes=app.router.routes, origins=origins)
    return app


def add_routes(app: FastAPI) -> None:
    """Give `app` everything it answers; its services may follow later."""
    app.router.routes.insert(0, Route(EVENTS_PATH, EventsEndpoint(), methods=["POST"]))
    app.router.routes.insert(1, Route("/openapi.json", Document(app).answer, methods=["GET"]))
    app.router.routes.insert(2, Route("/", _to_console, methods=["GET"]))
    for part in PARTS:
        # The names of the functions are those by which generated clients call them.
        app.include_router(part.router, generate_unique_id_function=lambda route: route.name)
    app.mount(BASE, make_console(app.state))
    problems.install(app)
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]


async def _to_console(_request: Request) -> Response:
    return RedirectResponse(f"{BASE}/", 307)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in hand and return.

    After SIGTERM it first says for `LEAVE_S` that it is not ready, and still takes requests: a load
    balancer sends none to a closed port. SIGINT, or a second signal, ends without that time.
    Raises StartRefused when the server would be open to others without keys, or cannot listen, and
    SettingsError when it is not said where the database and RabbitMQ are.
    """
    require(settings, "database_url", "broker_url")
    configure_logs(settings.log_format, settings.log_level)
    check_start(settings)
    certificate = certificate_of(settings)
    is_tls = certificate is not None
    for warning in (
        *link_warnings(settings),
        *open_warnings("API_HOST", settings.api_host, is_tls=is_tls),
    ):
        _log.warning("link.open", detail=warning)
    sys.setswitchinterval(SWITCH_S)
    reads = engine_for(settings, "veltrix-api", connections_max=settings.read_connections_max)
    ring = make_ring(settings, reads)
    sources = real_sources()
    relay = HintRelay(settings, engine_for(settings, "veltrix-hints", is_hot=True))
    acceptor = Writers(
        (
            engine_for(settings, "veltrix-accept", is_hot=True),
            engine_for(settings, "veltrix-accept large", is_hot=True),
        ),
        settings,
        event_ids(sources),
        sources.unix_ms,
        relay.take_credit,
        relay.offer,
    )
    catalog = Catalog(reads, settings.subscriptions_cache_s)
    services = Services(settings, reads, acceptor, ring, catalog, sources.new_id, relay.is_up)
    assert isinstance(reads.pool, QueuePool)
    database_connections.set_function(reads.pool.checkedout)
    listening = _listen(settings.api_host, settings.api_port)
    relay.start()
    Thread(target=say_powers, args=(settings, reads), name="powers", daemon=True).start()
    collect_rarely()
    try:
        _serve_until_signalled(make_app(services), listening, make_gate(settings), certificate)
    finally:
        relay.stop()
        reads.dispose()
    _log.info("api.stopped")


def make_ring(settings: Settings, engine: Engine) -> KeyRing:
    """The ring of keys, with the admin key file's content in it. Raises StartRefused."""
    ring = KeyRing(engine, is_required=are_keys_required(settings))
    if not ring.is_required:
        return ring
    file = settings.admin_key_file
    try:
        if file is not None:
            with transaction(engine) as tx:
                if keys.put_admin(tx, _content_of(file)):
                    append(tx, [_ADMIN_KEY])
        count = ring.refresh_once()
    except KeyRefused as error:
        raise StartRefused(f"VELTRIX_ADMIN_KEY_FILE ({file}): {error}") from None
    except DBAPIError as error:
        if not is_away(error):
            raise
        raise StartRefused(
            "the database cannot be reached, so API keys cannot be checked; a server that others"
            " can reach starts when it can"
        ) from None
    if count == 0:
        raise StartRefused(
            f"{settings.api_host} can be reached by others and there is no API key: make one with"
            " `veltrix keys create`, or name a file with one in VELTRIX_ADMIN_KEY_FILE"
        )
    return ring


def certificate_of(settings: Settings) -> Certificate | None:
    """By what the API speaks TLS; None: it does not. Raises StartRefused."""
    if settings.api_tls_cert is None or settings.api_tls_key is None:
        return None
    try:
        return Certificate(settings.api_tls_cert, settings.api_tls_key)
    except CertificateRefused as refused:
        raise StartRefused(f"VELTRIX_API_TLS_CERT: {refused}") from None


def make_gate(settings: Settings) -> Gate:
    """The limits of connections: as many as were asked for, or as this process may have files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.api_connections_max + FILES_SPARE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = min(settings.api_connections_max, max(1, soft - FILES_SPARE))
    if room < settings.api_connections_max:
        _log.warning(
            "connections.limited",
            connections=room,
            wanted=settings.api_connections_max,
            cure=f"raise the limit of open files ({soft}) to {wanted}",
        )
    return Gate(ConnectionLimits(connections_max=room))


def _content_of(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise StartRefused(f"VELTRIX_ADMIN_KEY_FILE cannot be read: {error}") from None


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2_048)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES_MAX)
        return listening
    except OSError as error:
        raise StartRefused(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another VELTRIX_API_PORT"
        ) from None


class _Server(TlsServer):
    """Returns after a signal instead of dying of it, leaves before it ends, says when it began."""

    def __init__(
        self,
        config: uvicorn.Config,
        gate: Gate,
        certificate: Certificate | None,
        on_started: Callable[[], None],
        on_leaving: Callable[[], None],
        on_ending: Callable[[], None],
    ) -> None:
        super().__init__(config, gate, certificate)
        self._on_started = on_started
        self._on_leaving = on_leaving
        self._on_ending = on_ending
        self._is_leaving = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM begins to leave; SIGINT and any second signal end the server.

        A SIGINT after that ends it without waiting for requests. Heard while the loop stands still,
        too: then the process is ended when its time is over.
        """
        loop = asyncio.get_running_loop()

        def hear(_number: int, _frame: FrameType | None, within_s: float, act: Act) -> None:
            end_within(within_s)
            loop.call_soon_threadsafe(act)

        within_s = GRACE_S + END_S
        end = partial(self.handle_exit, signal.SIGINT, None)
        leave = partial(hear, within_s=LEAVE_S + within_s, act=self._leave)
        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, partial(hear, within_s=within_s, act=end))
        yield

    def _leave(self) -> None:
        """Go on serving for `LEAVE_S`, as not ready, and then end; called again: end now."""
        if self._is_leaving or not self.started:
            self.handle_exit(signal.SIGTERM, None)
            return
        self._is_leaving = True
        self._on_leaving()
        # So that no client sends on a kept connection in the moment in which it is closed. uvicorn
        # makes the headers of all answers from these, once a second.
        self.config.encoded_headers.append((b"connection", b"close"))
        asyncio.get_running_loop().call_later(LEAVE_S, self.handle_exit, signal.SIGTERM, None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell answers that would go on for ever; then wait for what is in hand."""
        self._on_ending()
        await super().shutdown(sockets)


def config_of(app: FastAPI, gate: Gate) -> uvicorn.Config:
    """How `app` is served, behind a gate and its door."""
    return uvicorn.Config(
        Door(Direct(app), app.state, BASE),
        loop="uvloop",
        http=partial(ApiConnection, gate),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def _serve_until_signalled(
    app: FastAPI, listening: socket.socket, gate: Gate, certificate: Certificate | None
) -> None:
    host, port = listening.getsockname()[:2]
    config = config_of(app, gate)

    def on_leaving() -> None:
        app.state.is_leaving = True
        _log.info("api.leaving", seconds=LEAVE_S)

    def on_ending() -> None:
        app.state.is_leaving = True  # answers that go on for ever look at it

    scheme = "http" if certificate is None else "https"
    on_started = partial(_log.info, "api.started", host=host, port=port, scheme=scheme)
    server = _Server(config, gate, certificate, on_started, on_leaving, on_ending)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listening]))
    if not server.started:
        raise StartRefused("the server could not start; the log says why")
