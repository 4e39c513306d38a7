"""A relay with many queues, far from RabbitMQ, or with few rights there: it hands over."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Engine
from structlog.testing import capture_logs

from tests.pipeline.test_relay import WAITED, channel, fetch, names_in, relaying, settle_down
from tests.support.accepting import subscribe, subscription
from tests.support.due_runs import add_runs
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker.declarer import Declarer
from veltrix.broker.management import Management
from veltrix.pipeline.relay.budget import Budget
from veltrix.pipeline.relay.hints import HintRelay
from veltrix.pipeline.relay.relay import make_relay
from veltrix.prove.deployment.tcp_proxy import TcpProxy
from veltrix.settings.fields import Settings
from veltrix.store.transactions import make_engine

__all__ = ["channel"]
QUEUES = [f"team-{number:03}" for number in range(150)]
AWAY_S = 0.02  # one way


@contextmanager
def line_of(url: str, delay_s: float) -> Iterator[str]:
    """The URL of the same RabbitMQ, so far away."""
    line = TcpProxy(url)
    line.slow_down(delay_s)
    try:
        yield line.url
    finally:
        line.close()


def test_the_first_run_is_handed_over_at_once_however_many_queues_have_to_be_declared(
    engine: Engine, broker: Broker, settings_of: Any
) -> None:
    """Each queue took eleven round trips, in which the publisher's heartbeat was not served."""
    subscribe(engine, *(subscription(f"flow-{q}", "x", queue=q) for q in QUEUES))
    add_runs(engine, 3, workflow="flow-team-140", queue="team-140")
    declared, longest_s = 0, 0.0
    with line_of(broker.url, AWAY_S) as url, capture_logs() as lines:
        settings = settings_of(broker_url=url, broker_heartbeat_s=5)
        with relaying(settings, engine) as relay:
            began = time.monotonic()

            def is_confirmed() -> bool:
                nonlocal declared
                counts = relay.relay_once()
                declared += counts.declared
                return counts.confirmed > 0

            until(is_confirmed, deadline_s=5, what="the first run to be handed over")
            first_declared = declared
            while declared < len(QUEUES) and time.monotonic() - began < 60:
                at = time.monotonic()
                declared += relay.relay_once().declared
                longest_s = max(longest_s, time.monotonic() - at)

    assert first_declared < len(QUEUES)
    assert declared == len(QUEUES)
    assert longest_s < 5
    assert [line for line in lines if line["event"] == "broker.lost"] == []


def test_after_a_reconnect_all_queues_are_looked_at_in_a_few_round_trips(
    engine: Engine, broker: Broker, settings_of: Any
) -> None:
    subscribe(engine, *(subscription(f"flow-{q}", "x", queue=q) for q in QUEUES))
    with line_of(broker.url, 0.0) as near:
        declarer = Declarer(near, name="tests", heartbeat_s=30)
        declarer.ensure(QUEUES)
        declarer.close()
    line = TcpProxy(broker.url)
    line.slow_down(0.05)
    with relaying(settings_of(broker_url=line.url), engine) as relay:
        took_s = 0.0
        for _ in range(2):
            declared = 0
            began = time.monotonic()

            def are_all_there() -> bool:
                nonlocal declared
                declared += relay.relay_once().declared
                return declared >= len(QUEUES)

            until(are_all_there, deadline_s=20, what="all queues to be looked at")
            took_s = time.monotonic() - began
            line.break_all()

    line.close()
    assert took_s < len(QUEUES) * 0.1 / 2


def test_hints_for_a_queue_need_not_wait_for_all_others(
    engine: Engine, broker: Broker, settings_of: Any
) -> None:
    subscribe(engine, *(subscription(f"flow-{q}", "x", queue=q) for q in QUEUES))
    with line_of(broker.url, AWAY_S) as url:
        settings = settings_of(broker_url=url)
        hints = HintRelay(
            settings, make_engine(settings.database_url.get_secret_value(), application="hints")
        )
        hints.start()
        room = [0]

        def is_there_room() -> int:
            room[0] = sum(hints.take_credit(queue, 1) for queue in QUEUES)
            return room[0]

        until(is_there_room, deadline_s=10, what="room in some queue")
        assert room[0] < len(QUEUES)
        until(lambda: is_there_room() == len(QUEUES), deadline_s=60, what="room in all queues")
        hints.stop()


def test_where_many_queues_have_room_each_has_its_turn(settings: Settings) -> None:
    """Those in front took all that a scan may take, though nothing was due there."""
    budget = Budget(settings)
    budget.give("flood", 0)
    names = ["flood", *(f"quiet-{number}" for number in range(1_000))]
    found: dict[str, int] = {}
    for _ in range(10):
        wanted = budget.wanted(names, 2_000)
        assert sum(one.runs_max for one in wanted) <= 2_000
        assert "flood" in {one.queue for one in wanted}
        for one in wanted:
            found[one.queue] = found.get(one.queue, 0) + one.runs_max

    assert set(found) == set(names)


@pytest.fixture
def limited_url(broker: Broker) -> str:
    """The URL of a user who may publish and consume, and configure nothing."""
    management = Management(broker.management_url, broker.vhost)
    management._ask("PUT", f"/api/users/{broker.vhost}", {"password": "plain", "tags": ""})
    management._ask(
        "PUT",
        f"/api/permissions/{broker.vhost}/{broker.vhost}",
        {"configure": "", "write": ".*", "read": ".*"},
    )
    parts = urlsplit(broker.url)
    return parts._replace(netloc=f"{broker.vhost}:plain@{parts.hostname}:{parts.port}").geturl()


def test_who_may_not_declare_hands_over_to_what_is_there_and_says_so_once(
    engine: Engine,
    broker: Broker,
    limited_url: str,
    settings_of: Any,
    channel: Any,
) -> None:
    declarer = Declarer(broker.url, name="tests", heartbeat_s=30)
    declarer.ensure(["orders"])
    declarer.close()
    subscribe(engine, subscription("fulfil", "x"), subscription("other", "x", queue="nowhere"))
    ids = add_runs(engine, 4)
    add_runs(engine, 1, workflow="other", queue="nowhere")
    settings = settings_of(broker_url=limited_url)
    relay_engine = make_engine(settings.database_url.get_secret_value(), application="relay")
    relay = make_relay(settings, relay_engine, name="relay@test")
    began = time.monotonic()
    with capture_logs() as lines:
        settle_down(relay)
        while time.monotonic() - began < 3:
            relay.relay_once()
            WAITED.wait(0.02)
    relay.close()
    said = [line["event"] for line in lines]

    assert sorted(names_in(fetch(channel))) == ids
    assert "broker.lost" not in said
    assert 1 <= said.count("queue.refused") <= 3
