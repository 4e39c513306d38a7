"""`veltrix relay`: every duty is done, outages end none of them, and it stops when told."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from tests.support.due_runs import add_runs, change_runs, read_runs, subscribe
from tests.support.services import Broker
from tests.support.settled import run_sql, settle
from tests.support.wait import until
from veltrix.broker.connect import BrokerAway
from veltrix.broker.management import Management
from veltrix.broker.topology import plan, wanted
from veltrix.dev.servers.ports import free_port
from veltrix.dev.servers.rabbitmq import RabbitMQ
from veltrix.health import HealthServer
from veltrix.operations.books.books import balance
from veltrix.policies import NO_MANAGEMENT, Policies, limits_of
from veltrix.processes.relay import Duty, _check_groups, _drain, _duties, keep, run_relay
from veltrix.settings.fields import Settings
from veltrix.store.failure_deltas import take_turn
from veltrix.store.transactions import open_autocommit, transaction


@contextmanager
def relaying(settings: Settings) -> Iterator[Event]:
    stop = Event()
    thread = Thread(target=run_relay, args=(settings, stop))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(timeout=10)
        assert not thread.is_alive()


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310 - http on loopback
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def scalar(engine: Engine, sql: str) -> Any:
    with transaction(engine) as tx:
        return tx.execute(text(sql)).scalar_one()


def fetched(url: str, queue: str = "orders") -> list[str]:
    """The runs named by all messages of a queue, sorted, acknowledged."""
    found: list[str] = []
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.extend(json.loads(got[2])[0][0])
    return sorted(found)


def consumers(url: str, queue: str) -> int:
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        found = connection.channel().queue_declare(queue, passive=True)
        return int(found.method.consumer_count)


def test_one_process_relays_sweeps_drains_folds_and_puts_policies(
    settings_of: Callable[..., Settings], engine: Engine, broker: Broker
) -> None:
    port = free_port()
    settings = settings_of(relay_port=port)
    subscribe(engine)
    routed = add_runs(engine, 2)
    add_runs(engine, 1, is_routed=False)
    with relaying(settings):
        until(lambda: get(port, "/readyz")[0] == 200, what="the relay to be ready")
        arrived: list[str] = []

        until(lambda: read_runs(engine, routed, "hand_overs") == [(1,)] * 2, what="the relay")

        def three_arrived() -> bool:
            arrived.extend(fetched(broker.url))
            return len(set(arrived)) == 3

        until(three_arrived, what="two runs and the one swept up")
        connection = pika.BlockingConnection(pika.URLParameters(broker.url))
        connection.channel().basic_publish("veltrix.inbound", "nobody", b"foreign")
        connection.close()
        until(lambda: scalar(engine, "select count(*) from dead_letters"), what="the drain")
        until(lambda: scalar(engine, "select count(*) from counters"), what="the fold")
        management = Management(broker.management_url, broker.vhost)
        topology = wanted(["orders"], limits_of(settings))
        until(lambda: plan(management.live(), topology) == [], what="the policies")

        assert set(routed) < set(arrived)
        assert b"veltrix_runs_relayed_total" in get(port, "/metrics")[1]
        began = time.monotonic()
    assert time.monotonic() - began < 3


def test_a_queue_with_open_runs_keeps_its_limits_when_nobody_subscribes(
    settings_of: Callable[..., Settings], engine: Engine, broker: Broker
) -> None:
    add_runs(engine, 1, workflow="write", queue="mails")
    settings = settings_of(management_url=broker.management_url, relay_port=free_port())
    management = Management(broker.management_url, broker.vhost)
    topology = wanted(["mails"], limits_of(settings))

    with relaying(settings):
        until(lambda: plan(management.live(), topology) == [], what="its policy")


@pytest.mark.slow
def test_a_wiped_broker_is_whole_again_and_its_runs_are_handed_over_at_once(
    settings_of: Callable[..., Settings], engine: Engine, own_rabbitmq: RabbitMQ
) -> None:
    port = free_port()
    subscribe(engine)
    settings = settings_of(
        relay_port=port, broker_url=own_rabbitmq.url(), management_url=own_rabbitmq.management_url
    )
    ids = add_runs(engine, 6)
    with relaying(settings):
        until(lambda: get(port, "/readyz")[0] == 200, what="the relay to be ready")
        until(
            lambda: read_runs(engine, ids, "hand_overs") == [(1,)] * 6, what="the first hand-over"
        )
        until(lambda: consumers(own_rabbitmq.url(), "veltrix.dead"), what="the drain to consume")
        # The hold has grown: waiting for it to end would take minutes.
        change_runs(engine, ids, "hand_overs = 6, due_at = now() + interval '250 seconds'")
        own_rabbitmq.kill()
        own_rabbitmq.wipe()
        until(lambda: get(port, "/readyz")[0] == 503, what="the loss to be shown")
        own_rabbitmq.start()
        until(
            lambda: read_runs(engine, ids, "hand_overs") == [(1,)] * 6,
            deadline_s=20,
            what="all runs to be handed over again",
        )
        until(lambda: fetched(own_rabbitmq.url()) == ids, what="their message")


def test_a_duty_goes_on_after_an_outage_and_after_a_mistake() -> None:
    stop = Event()
    calls: list[int] = []

    def once() -> int:
        calls.append(len(calls))
        if len(calls) == 1:
            raise BrokerAway("gone")
        if len(calls) == 2:
            raise KeyError("a mistake")
        stop.set()
        return 0

    keep(Duty("test", once, 0.01), stop)

    assert calls == [0, 1, 2]


def test_a_relay_with_nothing_to_do_says_little_to_the_database(
    settings_of: Callable[..., Settings], engine: Engine
) -> None:
    """Per second: two due scans, a look and a half, and one look of each further duty."""
    subscribe(engine)
    with open_autocommit(engine) as tx, relaying(settings_of(hold_s=1, relay_port=free_port())):
        tx.execute(text("create extension if not exists pg_stat_statements"))
        # It keeps so many statements, and lets go of some where many databases have theirs.
        tx.execute(text("select pg_stat_statements_reset()"))

        def said(words: str = "") -> int:
            query = (
                "select coalesce(sum(calls), 0) from pg_stat_statements s"
                " join pg_database d on d.oid = s.dbid"
                " where d.datname = current_database() and query like :words"
                " and query not like '%pg_stat_statements%'"
            )
            return int(tx.execute(text(query), {"words": f"%{words}%"}).scalar_one())

        def seconds() -> int:
            return said("from counter_deltas order by id limit $1)")

        until(lambda: seconds() >= 3, what="the relay to rest")
        before, end = said(), seconds() + 5
        until(lambda: seconds() >= end, what="five seconds by the duty that looks each second")

        assert said() - before <= 15 * 5


class Pauses(Event):
    """Notes how long each pause was to be, and ends the duty with the second."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.asked_s.append(timeout or 0.0)
        if len(self.asked_s) == 2:
            self.set()
        return super().wait(0)


@pytest.mark.parametrize("error", [BrokerAway("gone"), KeyError("a mistake")])
def test_what_reads_much_is_not_tried_again_at_once(error: Exception) -> None:
    pauses, errors = Pauses(), iter([error])

    def once() -> int:
        for failed in errors:
            raise failed
        return 0

    keep(Duty("test", once, 5.0, 600.0), pauses)

    assert pauses.asked_s == [600.0, 5.0]


def test_who_would_count_groups_again_leaves_it_to_who_is_at_it(engine: Engine) -> None:
    ids = add_runs(engine, 1)
    change_runs(engine, ids, "state = 'failed', due_at = null, settled_at = now()")
    with transaction(engine, snapshot=True) as tx:
        assert take_turn(tx)
        other = Thread(target=lambda: _check_groups(engine), daemon=True)
        other.start()
        other.join(timeout=5)
        assert not other.is_alive()
        assert scalar(engine, "select count(*) from failure_deltas") == 0

    _check_groups(engine)

    assert scalar(engine, "select count(*) from failure_deltas") == 1


def test_what_was_seen_in_an_hour_is_forgotten_after_90_days_looked_for_once_a_day(
    settings_of: Callable[..., Settings], engine: Engine
) -> None:
    for days in (89, 91):
        run_sql(
            engine,
            "insert into failure_hours (group_id, hour, code_version, seen)"
            f" values ('a', now() - interval '{days} days', '', 1)",
        )
    settings = settings_of()
    with closing(_drain(settings, engine, "tests")) as drain:
        duties = {duty.name: duty for duty in _duties(settings, engine, drain, tuple)}
    daily, often = duties["forget-hours"], duties["forget"]

    assert (daily.pause_s, often.pause_s) == (86_400, 60)
    often.once()
    assert scalar(engine, "select count(*) from failure_hours") == 2
    assert daily.once() == 0
    assert scalar(engine, "select count(*) from failure_hours") == 1


def test_no_duty_forgets_a_failed_run_however_old_it_is(
    settings_of: Callable[..., Settings], engine: Engine
) -> None:
    (run_id,) = add_runs(engine, 1)
    settle(engine, [run_id], "failed", reason="error", fingerprint="f")
    run_sql(
        engine,
        "update runs set started_at = now() - interval '3 years',"
        " settled_at = now() - interval '3 years', claimed_at = now() - interval '3 years'",
    )
    settings = settings_of()
    with closing(_drain(settings, engine, "tests")) as drain:
        for duty in _duties(settings, engine, drain, tuple):
            duty.once()

    assert [row.state for row in read_runs(engine, [run_id], "state")] == ["failed"]
    assert balance(engine).runs.failed == 1
    assert balance(engine).unaccounted == 0


def test_without_the_management_api_a_relay_says_that_nobody_sees_to_the_policies(
    settings_of: Callable[..., Settings], engine: Engine
) -> None:
    port = free_port()
    with capture_logs() as lines, relaying(settings_of(relay_port=port, management_url=None)):
        until(lambda: get(port, "/readyz")[0] == 200, what="the relay to be ready")
        found = json.loads(get(port, "/readyz")[1])

    assert found["policies"] == NO_MANAGEMENT
    assert "VELTRIX_MANAGEMENT_URL" in NO_MANAGEMENT
    assert [line["event"] for line in lines].count("policies.not_kept") == 1


def test_policies_that_are_kept_or_refused_are_told(
    settings_of: Callable[..., Settings], broker: Broker
) -> None:
    kept = Policies(settings_of(), lambda: ["orders"])
    kept.apply_once()
    _ask_as_admin = Management(broker.management_url, broker.vhost)._ask
    _ask_as_admin("PUT", f"/api/users/{broker.vhost}", {"password": "p", "tags": "management"})
    _ask_as_admin(
        "PUT",
        f"/api/permissions/{broker.vhost}/{broker.vhost}",
        {"configure": ".*", "write": ".*", "read": ".*"},
    )
    port = urlsplit(broker.management_url).port
    url = f"http://{broker.vhost}:p@127.0.0.1:{port}"
    refused = Policies(settings_of(management_url=url), lambda: ["orders", "more"])
    with capture_logs() as lines:
        refused.apply_once()
        refused.apply_once()

    assert kept.finding is None
    assert "RabbitMQ refuses our policies" in (refused.finding or "")
    assert [line["event"] for line in lines] == ["policies.not_kept"]


def test_health_says_what_is_missing_and_nothing_else() -> None:
    has_broker = [False]
    server = HealthServer("127.0.0.1", 0, lambda: {"database": True, "broker": has_broker[0]})
    server.start()

    assert get(server.port, "/livez")[0] == 200
    assert get(server.port, "/readyz") == (503, b'{"database": true, "broker": false}')
    has_broker[0] = True
    assert get(server.port, "/readyz")[0] == 200
    assert get(server.port, "/etc/passwd")[0] == 404
    for header in ("Host", "X-Forwarded-For"):  # a page elsewhere, or whoever is behind a proxy
        assert get(server.port, "/metrics", {header: "evil.example"})[0] == 403
    server.stop()
