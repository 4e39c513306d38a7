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
from typing import Any

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from veltrix.access import answers, sessions
from veltrix.bootstrap import collect_rarely, engine_for, event_ids, real_sources, say_powers
from veltrix.broker.connect import BrokerAway, broker_url
from veltrix.broker.drain import Drain
from veltrix.doctor.starting import check_start
from veltrix.domain.backoff import Backoff
from veltrix.health import HealthServer
from veltrix.operations.books.books import Measuring, fold_once, recount_once
from veltrix.operations.failures.triage import check_groups, fold_groups_once
from veltrix.operations.history.days import AHEAD_S, MOVE_S, Moving, make_ahead_once
from veltrix.operations.replays.mover import Mover
from veltrix.operations.replays.replay_rows import forget_unstarted
from veltrix.operations.retention.small_rows import SmallTables
from veltrix.pipeline.accept.sweep import Sweep
from veltrix.pipeline.relay.connections import make_declarer
from veltrix.pipeline.relay.dead_letters import bury
from veltrix.pipeline.relay.queues import LOOK_S, Following, Unattended
from veltrix.pipeline.relay.relay import Relay, make_relay
from veltrix.policies import Policies, management_of
from veltrix.releases import release_rows, subscription_rows
from veltrix.releases.deploy import Deploys
from veltrix.settings.fields import Settings
from veltrix.settings.links import link_warnings, open_warnings
from veltrix.settings.load import require
from veltrix.store.errors import Answer, answer_of, told
from veltrix.store.failure_deltas import forget_hours
from veltrix.store.loads import forget_stale
from veltrix.store.transactions import open_autocommit, transaction
from veltrix.telemetry import logger

log = logger("duties")

BACKOFF_S, BACKOFF_S_MAX = 0.1, 1.0  # what is back is used within a second
FORGET_S = 60.0
DEPLOYS_S = 1.0
ANSWERS_KEPT_S = 24 * 3600.0  # how long a call may be repeated with its Idempotency-Key
HOURS_KEPT_DAYS = 90  # of what a failure group's sparkline is drawn from
HOURS_FORGET_S = 24 * 3600.0
PLANS_KEPT_DAYS = 30  # a replay that was planned and never started
GROUPS_CHECK_S = 600.0
STOP_S = 1.5
END_S = 3.0  # after SIGTERM, whatever does not answer; then the process is ended
CONNECTIONS_MAX = 5
_AWAY = (BrokerAway, SQLAlchemyError, OSError)


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
    check_start(settings)
    for warning in (
        *link_warnings(settings),
        *open_warnings("HEALTH_HOST", settings.health_host, is_tls=False),
    ):
        log.warning("link.open", detail=warning)
    name = f"relay@{socket.gethostname()}"
    engine = engine_for(settings, "veltrix-duties", connections_max=CONNECTIONS_MAX, is_tried=False)
    relay = make_relay(
        settings,
        engine_for(settings, "veltrix-relay", is_hot=True),
        name=name,
        totals=management_of(settings),
    )
    drain = _drain(settings, engine, name)
    troubles: dict[str, str] = {}
    unattended = Unattended(engine)
    policies = Policies(settings, lambda: relay.queues)
    threads = [
        Thread(target=keep, args=(duty, stop, troubles), name=duty.name, daemon=True)
        for duty in _duties(settings, engine, drain, lambda: relay.queues, unattended, policies)
    ]
    asking = Thread(target=say_powers, args=(settings, engine), name="powers", daemon=True)
    asking.start()
    collect_rarely()
    with _health(settings, relay, troubles, unattended, policies):
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


def keep(duty: Duty, stop: Event, troubles: dict[str, str] | None = None) -> None:
    """Do the duty until `stop`, whatever happens to PostgreSQL and RabbitMQ.

    An error that is no outage is logged with its traceback and tried again as well: one duty's
    mistake must not end the others. While a duty cannot be done, `troubles` says why.
    """
    monotonic = real_sources().monotonic
    backoff = Backoff(BACKOFF_S, BACKOFF_S_MAX)
    said: dict[str, str] = {} if troubles is None else troubles
    while not stop.is_set():
        try:
            pause_s = 0.0 if duty.once() else _pause_of(duty)
            backoff.reset()
            said.pop(duty.name, None)
        except Exception as error:
            pause_s = max(backoff.extend(monotonic()), duty.failed_pause_s)
            said[duty.name] = _told(error)
            if _is_outage(error):
                log.warning("duty.waits", duty=duty.name, error=_told(error), retry_in_s=pause_s)
            else:
                log.exception("duty.failed", duty=duty.name, retry_in_s=pause_s)
        if pause_s:
            stop.wait(pause_s)


def _is_outage(error: Exception) -> bool:
    """Nobody here has made a mistake: what it needs is away."""
    if isinstance(error, DBAPIError | psycopg.Error):
        return answer_of(error) is not Answer.OUR_FAULT
    return isinstance(error, _AWAY)


def _pause_of(duty: Duty) -> float:
    return duty.pause_s() if callable(duty.pause_s) else duty.pause_s


def _told(error: Exception) -> str:
    """The first line: the rest of a database error is SQL and values."""
    return f"{type(error).__name__}: {told(error)}"


def _duties(
    settings: Settings,
    engine: Engine,
    drain: Drain,
    queues: Callable[[], Collection[str]],
    unattended: Unattended | None = None,
    policies: Policies | None = None,
) -> Iterator[Duty]:
    yield Duty("drain", drain.drain_once, 0.1)
    yield Duty("sweep", Sweep(engine, settings).once, settings.sweep_unrouted_s)
    yield Duty("deploys", Deploys(engine, settings).once, DEPLOYS_S)
    yield Duty("follow", Following(engine).once, LOOK_S)
    yield Duty("unattended", (unattended or Unattended(engine)).once, LOOK_S)
    yield Duty("fold", lambda: _fold(engine, settings), settings.fold_s)
    measuring = Measuring(engine)
    yield Duty("recount", lambda: _recount(engine, measuring), settings.recount_s)
    replaying = Mover(engine, settings, event_ids(real_sources()))
    yield Duty("replays", replaying.once, lambda: replaying.pause_s)
    yield Duty("groups", lambda: fold_groups_once(engine), settings.fold_s)
    yield Duty("groups-check", lambda: _check_groups(engine), GROUPS_CHECK_S, GROUPS_CHECK_S)
    yield Duty("forget", lambda: _forget(engine), FORGET_S)
    yield Duty("forget-plans", lambda: _forget_plans(engine), FORGET_S, GROUPS_CHECK_S)
    yield Duty("days", lambda: make_ahead_once(engine), AHEAD_S, AHEAD_S / 10)
    yield Duty("moving", Moving(engine).once, MOVE_S, MOVE_S / 10)
    yield Duty("forget-hours", lambda: _forget_hours(engine), HOURS_FORGET_S, GROUPS_CHECK_S)
    small = SmallTables(engine)
    yield Duty("small-tables", small.once, lambda: small.pause_s, GROUPS_CHECK_S)
    policies = policies or Policies(settings, queues)
    yield Duty("policies", policies.apply_once, policies.pause_s)


def _relay(relay: Relay, stop: Event) -> int:
    relay.run(stop)
    return 0


def _fold(engine: Engine, settings: Settings) -> int:
    return fold_once(engine, unrouted_groups_max=settings.unrouted_groups_max)


def _recount(engine: Engine, measuring: Measuring) -> int:
    recount_once(engine)
    measuring.once()
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
        release_rows.forget(tx)
        subscription_rows.forget(tx)
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


def _drain(settings: Settings, engine: Engine, name: str) -> Drain:
    return Drain(
        broker_url(settings),
        name=f"{name} drain",
        heartbeat_s=settings.broker_heartbeat_s,
        keep=lambda letters: bury(engine, letters),
        declare=lambda: _declare(settings, f"{name} drain topology"),
        try_keeping=lambda: _try(engine),
    )


def _try(engine: Engine) -> None:
    with open_autocommit(engine) as tx:
        tx.exec_driver_sql("select 1")


def _declare(settings: Settings, name: str) -> None:
    """The queues that are drained exist, whichever duty finds a new or wiped broker first."""
    with closing(make_declarer(settings, name)) as declarer:
        declarer.ensure(())


@contextmanager
def _health(
    settings: Settings,
    relay: Relay,
    troubles: dict[str, str],
    unattended: Unattended,
    policies: Policies,
) -> Iterator[None]:
    def checks() -> dict[str, Any]:
        return {
            "database": relay.has_database,
            "broker": relay.is_connected,
            "troubles": dict(troubles),
            "unserved_queues": unattended.findings,
            "policies": policies.finding or "kept",
        }

    server = HealthServer(settings.health_host, settings.relay_port, checks)
    server.start()
    log.info("health.listening", port=server.port)
    try:
        yield
    finally:
        server.stop()
