"""What `veltrix doctor --watch` does: looks, until it is told to stop, with its own health port."""

import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection

from veltrix.access import keys
from veltrix.access.audit import Audited, append
from veltrix.bootstrap import engine_for, real_sources
from veltrix.doctor.catalogue import all_rules
from veltrix.doctor.examine import Reader
from veltrix.doctor.facts.canaries import CanaryWays
from veltrix.doctor.facts.platform_settings import PlatformSettings
from veltrix.doctor.platform import LiveReaders, readers_of
from veltrix.doctor.watch.canaries import Canaries
from veltrix.doctor.watch.watch import DoctorWatch
from veltrix.doctor.watch.webhook import opened
from veltrix.domain.events import CANARY_SOURCE
from veltrix.health import HealthServer
from veltrix.processes.relay import Duty, keep
from veltrix.settings.fields import Settings
from veltrix.settings.links import open_warnings
from veltrix.settings.load import SettingsError, require
from veltrix.settings.rules import accepted_findings
from veltrix.telemetry import logger

_DOCTOR_KEY = Audited(
    author="VELTRIX_DOCTOR_KEY_FILE",
    action="key.create",
    reason="",
    target="key",
    target_id=keys.DOCTOR_NAME,
    request={"scopes": ["events:write"], "sources": [CANARY_SOURCE]},
)

_log = logger("doctor")


def run_watch(
    settings: Settings,
    stop: Event,
    *,
    ca_file: Path | None = None,
    is_production: bool = False,
) -> None:
    """Look every VELTRIX_DOCTOR_INTERVAL_S until `stop` is set.

    PostgreSQL, RabbitMQ and the apis may be away at the start and at any time. Raises
    SettingsError if PostgreSQL is not configured or the key file cannot be used, ApiMistake for an
    api that cannot be called.
    """
    require(settings, "database_url")
    key = _key_of(settings)
    for warning in open_warnings("HEALTH_HOST", settings.health_host, is_tls=False):
        _log.warning("link.open", detail=warning)
    sources = real_sources()
    engine = engine_for(settings, "veltrix-watch", connections_max=2, is_tried=False)
    secret = settings.doctor_webhook
    webhook_url = None if secret is None else secret.get_secret_value()
    with ExitStack() as ending:
        ending.callback(engine.dispose)
        canaries = Canaries(
            engine,
            apis_of(settings),
            new_id=sources.new_id,
            may_take_s=settings.doctor_canary_s,
            key=key,
            ca_file=ca_file,
        )
        ending.callback(canaries.close)
        webhook = ending.enter_context(opened(engine, webhook_url, sources.monotonic()))
        live = ending.enter_context(LiveReaders(settings))
        watch = DoctorWatch(
            engine,
            f"{socket.gethostname()}/{uuid.uuid4().hex[:8]}",
            list(all_rules()),
            _readers(settings, live, canaries),
            accepted_findings(settings.doctor_accepted),
            is_production=is_production,
            interval_s=settings.doctor_interval_s,
            webhook=webhook,
            monotonic=sources.monotonic,
            unix_s=lambda: sources.unix_ms() / 1_000,
            prepare=lambda tx: _put_key(tx, key),
        )
        troubles: dict[str, str] = {}
        with _health(settings, watch, troubles):
            keep(Duty("watch", watch.once, settings.doctor_interval_s), stop, troubles)
        watch.leave()


def apis_of(settings: Settings) -> list[str]:
    """The addresses of the apis that get canaries, without doubles."""
    named = [one.strip().rstrip("/") for one in settings.doctor_apis.split(",") if one.strip()]
    scheme = "http" if settings.api_tls_cert is None else "https"
    own = f"{scheme}://127.0.0.1:{settings.api_port}"
    return list(dict.fromkeys(named or [own]))


def _key_of(settings: Settings) -> str | None:
    file = settings.doctor_key_file
    if file is None:
        return None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError([f"VELTRIX_DOCTOR_KEY_FILE cannot be read: {error}"]) from None
    if len(key) < keys.TOKEN_CHARS_MIN or not key.isascii() or not key.isprintable():
        told = "VELTRIX_DOCTOR_KEY_FILE has no key; `openssl rand -hex 32` makes one"
        raise SettingsError([told])
    return key


def _put_key(tx: Connection, key: str | None) -> None:
    if key is not None and keys.put_doctor(tx, key):
        append(tx, [_DOCTOR_KEY])


def _readers(settings: Settings, live: LiveReaders, canaries: Canaries) -> dict[type, Reader]:
    """What is live, and the settings; the code of workflows does not change by itself."""
    static = readers_of(settings, is_live=False)
    return {
        PlatformSettings: static[PlatformSettings],
        **live.readers,
        CanaryWays: canaries.look,
    }


@contextmanager
def _health(settings: Settings, watch: DoctorWatch, troubles: dict[str, str]) -> Iterator[None]:
    def checks() -> dict[str, Any]:
        looks = watch.is_turning() and not troubles
        return {"looks": looks, "is_looking": str(watch.is_looking), **troubles}

    server = HealthServer(settings.health_host, settings.doctor_port, checks)
    server.start()
    _log.info("health.listening", port=server.port)
    try:
        yield
    finally:
        server.stop()
