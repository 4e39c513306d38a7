"""What `veltrix relay` does: the relay in the main thread, each further duty in its own thread.

Every duty is a `*_once` that says how much it did, in one loop: at once again while there is work,
a pause when there is none, a growing pause while PostgreSQL or RabbitMQ is away. Any number of
relay processes run side by side.
"""

import logging
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Event, Thread

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.bootstrap import collect_rarely, engine_for, event_ids, real_sources
from app.broker.connect import BrokerAway, vhost_of
from app.broker.drain import Drain
from app.broker.management import Management, ManagementRefused
from app.broker.topology import Limits, is_queue_name, wanted
from app.health import HealthServer
from app.pipeline.backoff import Backoff
from app.pipeline.books import fold_once, recount_once
from app.pipeline.broker_links import make_declarer
from app.pipeline.bury import bury
from app.pipeline.groups import check_groups, fold_groups_once
from app.pipeline.relay import Relay, make_relay
from app.pipeline.replaying import Replaying
from app.pipeline.sweep import Sweep
from app.settings import Settings
from app.settings_load import require
from app.store import answers, sessions
from app.store.groups import forget_hours
from app.store.loads import forget_stale
from app.store.replays import forget_unstarted
from app.store.transactions import transaction
from app.telemetry import logger

log = logger("duties")

BACKOFF_S, BACKOFF_S_MAX = 0.1, 1.0  # what is back is used within a second
FORGET_S = 60.0
ANSWERS_KEPT_S = 24 * 3600.0  # how long a call may be repeated with its Idempotency-Key
HOURS_KEPT_DAYS = 90  # of what a failure group's sparkline is drawn from
HOURS_FORGET_S = 24 * 3600.0
PLANS_KEPT_DAYS = 30  # a replay that was planned and never started
GROUPS_CHECK_S = 600.0
POLICIES_S, NEW_QUEUES_S = 10.0, 0.5
STOP_S = 1.5
CONNECTIONS_MAX = 5
_AWAY = (BrokerAway, SQLAlchemyError, psycopg.Error, OSError)


@dataclass(frozen=True, slots=True)
class Duty:
    """`once` does what there is to do and says how much; `pause_s` follows when that was 0.

    An error is followed by `failed_pause_s` at least: what reads much is not tried again at once.
    """

    name: str
    once: Callable[[], int]
    pause_s: float | Callable[[], float]
    failed_pause_s: float = 0.0


def run_relay(settings: Settings, stop: Event) -> None:
    """Relay, drain, sweep and keep the books until `stop` is set, then return within two seconds.

    PostgreSQL and RabbitMQ may be away at the start and at any time. Raises SettingsError if they
    are not configured.
    """
    require(settings, "database_url", "broker_url")
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # ten lines per refused connection
    name = f"relay@{socket.gethostname()}"
    engine = engine_for(settings, "veltrix-duties", connections_max=CONNECTIONS_MAX, is_tried=False)
    relay = make_relay(
        settings,
        engine_for(settings, "veltrix-relay", is_hot=True),
        name=name,
        totals=_management(settings),
    )
    drain = _drain(settings, engine, name)
    threads = [
        Thread(target=keep, args=(duty, stop), name=duty.name, daemon=True)
        for duty in _duties(settings, engine, drain, lambda: relay.queues)
    ]
    collect_rarely()
    with _health(settings, relay):
        for thread in threads:
            thread.start()
        try:
            keep(Duty("relay", lambda: _relay(relay, stop), 0.0), stop)
        finally:
            stop.set()
            relay.close()
            end_at = real_sources().monotonic() + STOP_S
            for thread in threads:
                thread.join(timeout=max(0.0, end_at - real_sources().monotonic()))
            if not any(thread.is_alive() for thread in threads):
                drain.close()
            engine.dispose()


def keep(duty: Duty, stop: Event) -> None:
    """Do the duty until `stop`, whatever happens to PostgreSQL and RabbitMQ.

    An error that is no outage is logged with its traceback and tried again as well: one duty's
    mistake must not end the others.
    """
    monotonic = real_sources().monotonic
    backoff = Backoff(BACKOFF_S, BACKOFF_S_MAX)
    while not stop.is_set():
        try:
            pause_s = 0.0 if duty.once() else _pause_of(duty)
            backoff.reset()
        except _AWAY as error:
            pause_s = max(backoff.extend(monotonic()), duty.failed_pause_s)
            log.warning("duty.waits", duty=duty.name, error=_told(error), retry_in_s=pause_s)
        except Exception:
            pause_s = max(backoff.extend(monotonic()), duty.failed_pause_s)
            log.exception("duty.failed", duty=duty.name, retry_in_s=pause_s)
        if pause_s:
            stop.wait(pause_s)


def _pause_of(duty: Duty) -> float:
    return duty.pause_s() if callable(duty.pause_s) else duty.pause_s


def _told(error: Exception) -> str:
    """The first line: the rest of a database error is SQL and values."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _duties(
    settings: Settings, engine: Engine, drain: Drain, queues: Callable[[], Collection[str]]
) -> Iterator[Duty]:
    yield Duty("drain", drain.drain_once, 0.1)
    yield Duty("sweep", Sweep(engine, settings).once, settings.sweep_unrouted_s)
    yield Duty("fold", lambda: fold_once(engine), settings.fold_s)
    yield Duty("recount", lambda: _recount(engine), settings.recount_s)
    replaying = Replaying(engine, settings, event_ids(real_sources()))
    yield Duty("replays", replaying.once, lambda: replaying.pause_s)
    yield Duty("groups", lambda: fold_groups_once(engine), settings.fold_s)
    yield Duty("groups-check", lambda: _check_groups(engine), GROUPS_CHECK_S, GROUPS_CHECK_S)
    yield Duty("forget", lambda: _forget(engine), FORGET_S)
    yield Duty("forget-plans", lambda: _forget_plans(engine), FORGET_S, GROUPS_CHECK_S)
    yield Duty("forget-hours", lambda: _forget_hours(engine), HOURS_FORGET_S, GROUPS_CHECK_S)
    management = _management(settings)
    if management is not None:
        policies = Policies(settings, queues, management)
        yield Duty("policies", policies.apply_once, NEW_QUEUES_S)


def _relay(relay: Relay, stop: Event) -> int:
    relay.run(stop)
    return 0


def _recount(engine: Engine) -> int:
    recount_once(engine)
    return 0  # what is left has time


def _check_groups(engine: Engine) -> int:
    """One relay at a time counts; the others leave it to that one, and keep no connection."""
    found = check_groups(engine, is_corrected=True, is_patient=False)
    wrong = [one.id for one in found if not one.is_new]
    if wrong:
        log.error("groups.miscounted", groups=len(wrong), first=wrong[0])
    return 0


def _forget(engine: Engine) -> int:
    with transaction(engine) as tx:
        return forget_stale(tx) + answers.forget(tx, ANSWERS_KEPT_S) + sessions.forget(tx)


def _forget_plans(engine: Engine) -> int:
    """A duty of its own: the set of a large plan takes seconds to delete."""
    with transaction(engine) as tx:
        return forget_unstarted(tx, PLANS_KEPT_DAYS)


def _forget_hours(engine: Engine) -> int:
    """No index leads to old hours: all are read, which once a day is cheaper than an index is."""
    with transaction(engine) as tx:
        forget_hours(tx, HOURS_KEPT_DAYS)
    return 0


class Policies:
    """Keeps the limits of all queues as they should be; without management they are not applied."""

    def __init__(
        self, settings: Settings, queues: Callable[[], Collection[str]], management: Management
    ) -> None:
        self._queues, self._management = queues, management
        self._limits = limits_of(settings)
        self._applied: list[str] | None = None
        self._applied_at = 0.0

    def apply_once(self) -> int:
        """Put what differs; 0, or raises BrokerAway. A refusal is a finding, not an end.

        RabbitMQ is asked at once when a queue is new: until its policy is there, what a foreign
        consumer rejects is not dead-lettered but gone.
        """
        queues = sorted(queue for queue in self._queues() if is_queue_name(queue))
        now = real_sources().monotonic()
        if queues == self._applied and now - self._applied_at < POLICIES_S:
            return 0
        self._put(queues)
        self._applied, self._applied_at = queues, now
        return 0

    def _put(self, queues: list[str]) -> None:
        try:
            there = self._management.live().policies or {}
            for policy in wanted(queues, self._limits).policies:
                if there.get(policy.name) != policy:
                    self._management.put_policy(policy)
                    log.info("policy.put", policy=policy.name, queues=len(queues))
        except ManagementRefused as error:
            log.error(
                "policy.refused",
                error=str(error),
                cure="use a definitions file, or a user with the tag `policymaker`",
            )


def limits_of(settings: Settings) -> Limits:
    """The bounds of a workflow queue, from the settings."""
    return Limits(
        delivery_limit=settings.delivery_limit,
        messages_max=settings.queue_messages_max,
        bytes_max=settings.queue_bytes_max,
    )


def _management(settings: Settings) -> Management | None:
    if settings.management_url is None or settings.broker_url is None:
        return None
    vhost = vhost_of(settings.broker_url.get_secret_value())
    return Management(settings.management_url.get_secret_value(), vhost)


def _drain(settings: Settings, engine: Engine, name: str) -> Drain:
    assert settings.broker_url is not None
    return Drain(
        settings.broker_url.get_secret_value(),
        name=f"{name} drain",
        heartbeat_s=settings.broker_heartbeat_s,
        keep=lambda letters: bury(engine, letters),
        declare=lambda: _declare(settings, f"{name} drain topology"),
    )


def _declare(settings: Settings, name: str) -> None:
    """The queues that are drained exist, whichever duty finds a new or wiped broker first."""
    with closing(make_declarer(settings, name)) as declarer:
        declarer.ensure(())


@contextmanager
def _health(settings: Settings, relay: Relay) -> Iterator[None]:
    def checks() -> dict[str, bool]:
        return {"database": relay.has_database, "broker": relay.is_connected}

    server = HealthServer(settings.health_host, settings.relay_port, checks)
    server.start()
    log.info("health.listening", port=server.port)
    try:
        yield
    finally:
        server.stop()
