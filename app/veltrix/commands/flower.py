"""Flower on our Celery app: what it may do is said here, not in its own files and variables."""

import asyncio
import logging
import signal
from typing import Any
from urllib.parse import urlsplit

from flower.api import BaseApiHandler
from flower.app import Flower
from flower.options import options
from flower.urls import settings as flower_urls
from flower.views import BaseHandler
from tornado.httpclient import AsyncHTTPClient
from tornado.ioloop import PeriodicCallback
from tornado.web import ErrorHandler

from veltrix.broker.celery_app import make_celery
from veltrix.broker.connect import broker_url
from veltrix.commands.flower_links import linked
from veltrix.commands.mistakes import CommandRefused
from veltrix.domain.local_names import forwarding, is_local
from veltrix.leaving import end_within
from veltrix.settings.fields import Settings
from veltrix.settings.links import open_warnings
from veltrix.settings.load import require
from veltrix.telemetry import logger
from veltrix.tls import Certificate, CertificateRefused, client_context

TASKS_MAX = 10_000
TLS_MANAGEMENT_PORT = 15_671  # RabbitMQ's own, unless told otherwise
LOOK_S = 2.0
END_S = 5.0  # after SIGTERM; questions that wait for a worker's answer are not waited for
_log = logger("flower")


def run_flower(settings: Settings) -> None:
    """Serve Flower until SIGTERM or SIGINT. It shows workers and tasks and changes nothing.

    RabbitMQ may be away at the start and at any time. Raises SettingsError, and CommandRefused when
    it cannot listen, or has a certificate that cannot be used.
    """
    require(settings, "broker_url")
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    # Four lines each time it asks and no worker is there yet; `_follow` asks again.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    _configure(settings)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    celery = make_celery(settings, [], [], name="flower")
    certificate = _certificate_of(settings)
    is_tls = certificate is not None
    for warning in open_warnings("FLOWER_HOST", settings.flower_host, is_tls=is_tls):
        _log.warning("link.open", detail=warning)
    is_open = settings.flower_basic_auth is None
    flower = (_Local if is_open else Flower)(
        capp=celery,
        options=options,
        ssl_options=None if certificate is None else certificate.context,
        **linked(flower_urls, settings),
    )
    try:
        port = flower.start_http_server()
    except OSError as error:
        raise CommandRefused(
            f"cannot listen on {settings.flower_host}:{settings.flower_port} ({error.strerror});"
            " choose another VELTRIX_FLOWER_PORT"
        ) from None

    def leave() -> None:
        end_within(END_S)
        flower.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    _log.info("flower.started", host=settings.flower_host, port=port)
    PeriodicCallback(lambda: _follow(flower), LOOK_S * 1000).start()
    flower.start()
    _log.info("flower.stopped")


def _configure(settings: Settings) -> None:
    options.address = settings.flower_host
    options.port = settings.flower_port
    options.read_only = True
    options.enable_events = False  # workers send them anyway, and take no commands
    options.max_tasks = TASKS_MAX
    options.broker_api = _management_api(settings)
    AsyncHTTPClient.configure(
        None, defaults={"ssl_options": client_context(settings.broker_ca_file)}
    )
    if settings.flower_basic_auth is not None:
        options.basic_auth = [settings.flower_basic_auth.get_secret_value()]
    else:
        BaseApiHandler.unauthenticated_api = True  # by the settings' rules on loopback only
    # Flower would also let pages of any other site read what it answers; ours need not.
    BaseHandler.set_default_headers = _no_other_sites


def _certificate_of(settings: Settings) -> Certificate | None:
    if settings.flower_tls_cert is None or settings.flower_tls_key is None:
        return None
    try:
        return Certificate(settings.flower_tls_cert, settings.flower_tls_key)
    except CertificateRefused as refused:
        raise CommandRefused(f"VELTRIX_FLOWER_TLS_CERT: {refused}") from None


def _management_api(settings: Settings) -> str | None:
    """Where Flower asks for queues; None: where it looks for itself, by plain HTTP.

    There it would send the password of RabbitMQ, which is not to leave this machine like that.
    """
    if settings.management_url is not None:
        return settings.management_url.get_secret_value().rstrip("/") + "/api/"
    parts = urlsplit(broker_url(settings))
    if parts.scheme != "amqps" or parts.hostname is None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{TLS_MANAGEMENT_PORT}/api/"


def _follow(flower: Flower) -> None:
    """`/api/workers` has the live nodes: by itself Flower asks who is there once, at its start."""
    heard = {worker.hostname: worker.alive for worker in list(flower.events.state.workers.values())}
    known = flower.inspector.workers
    if any(is_alive and name not in known for name, is_alive in heard.items()):
        flower.update_workers()
    for name in [name for name in known if not heard.get(name, True)]:
        del known[name]


class _Local(Flower):  # type: ignore[misc]
    """Flower without a password: to loopback names only, nothing forwarded, as an api without keys.

    A page elsewhere could otherwise read it under a name that was made to point here.
    """

    def find_handler(self, request: Any, **options: Any) -> Any:
        """What answers this request."""
        host = request.headers.get("Host")
        if forwarding(request.headers) or not (host is None or is_local(f"//{host}")):
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **options)


def _no_other_sites(handler: BaseHandler) -> None:
    handler.set_header("X-Content-Type-Options", "nosniff")
    handler.set_header("X-Frame-Options", "DENY")
    handler.set_header("Content-Security-Policy", "frame-ancestors 'none'")
