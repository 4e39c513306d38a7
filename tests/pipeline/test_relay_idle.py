"""A relay that has little to do: it rests, and keeps what it is connected to."""

import time
from threading import Event

import pytest
from sqlalchemy import Engine

from tests.pipeline.test_relay import Clock, relaying
from tests.support.due_runs import add_runs, change_runs, subscribe
from tests.support.wait import until
from veltrix.pipeline.relay.pace import REST_S
from veltrix.pipeline.relay.relay import CHECK_S
from veltrix.settings.fields import Settings


class Rounds(Event):
    """Moves the clock by each pause, notes how long it was, and stops after so many."""

    def __init__(self, clock: Clock, rounds: int) -> None:
        super().__init__()
        self._clock, self._rounds = clock, rounds
        self.paused_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.paused_s.append(timeout or 0.0)
        self._clock.now += timeout or 0.0
        if len(self.paused_s) == self._rounds:
            self.set()
        return super().wait(0)


def test_a_relay_rests_when_nothing_was_to_be_expected_for_a_hold(
    settings: Settings, engine: Engine
) -> None:
    subscribe(engine)
    clock = Clock()
    rounds = Rounds(clock, 100)

    with relaying(settings, engine, monotonic=clock) as relay:
        relay.run(rounds)

    before = rounds.paused_s.index(REST_S)
    assert set(rounds.paused_s[:before]) == {settings.relay_scan_s}
    assert sum(rounds.paused_s[:before]) == pytest.approx(settings.hold_s, abs=0.5)
    assert set(rounds.paused_s[before:]) == {REST_S}


@pytest.mark.parametrize("state", ["'waiting'", "'running', lease_token = gen_random_uuid()"])
def test_a_relay_does_not_rest_while_a_run_is_about_to_be_due(
    settings: Settings, engine: Engine, state: str
) -> None:
    subscribe(engine)
    ids = add_runs(engine, 1)
    change_runs(engine, ids, f"state = {state}, due_at = now() + interval '60 s'")
    clock = Clock()
    rounds = Rounds(clock, 200)

    with relaying(settings, engine, monotonic=clock) as relay:
        relay.run(rounds)

    assert set(rounds.paused_s) == {settings.relay_scan_s}


def test_a_relay_with_little_to_do_keeps_its_connections_to_rabbitmq(
    settings: Settings, engine: Engine
) -> None:
    """It looks at queues only while they hold something; RabbitMQ closes who says nothing."""
    subscribe(engine)
    began = time.monotonic()
    often = settings.model_copy(update={"broker_heartbeat_s": 1})
    with relaying(often, engine) as relay:

        def outlived(seconds: float) -> bool:
            relay.relay_once()
            assert relay.is_connected
            return time.monotonic() - began > seconds

        until(lambda: outlived(4), what="four heartbeats to pass")
        add_runs(engine, 1)
        until(lambda: outlived(4 + 2 * CHECK_S), what="two looks at the queue")
