"""Events are dated by the database's clock, whatever the api's says; a wrong one is refused."""

import time
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.accepting import accepting, submission, subscribe, subscription
from tests.support.wait import until
from veltrix.pipeline.accept.receipts import AcceptUnavailable, Receipt
from veltrix.pipeline.accept.sweep import Sweep
from veltrix.pipeline.clock import DatabaseClock
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction

DATABASE_S = 1_790_000_000.0


class Machine:
    """A steady clock, a wall clock, and a database some way off."""

    def __init__(self, ahead_s: float = 0.0, offset_s_max: float = 2.0) -> None:
        self.steady, self.wall_ahead_s, self.database_ahead_s = 500.0, ahead_s, 0.0
        self.clock = DatabaseClock(
            lambda: self.steady, lambda: self.true + self.wall_ahead_s, offset_s_max
        )

    @property
    def true(self) -> float:
        return DATABASE_S + self.steady + self.database_ahead_s

    def look(self, there_s: float = 0.0001, back_s: float = 0.0001) -> None:
        """Ask the database: so long until it reads its clock, so long until that is known."""
        before = self.steady
        self.steady += there_s
        read = self.true
        self.steady += back_s
        self.clock.learn(before, read, self.steady)

    @property
    def error_ms(self) -> float:
        """How far what it says is from the database's time."""
        return self.clock.unix_ms() - self.true * 1000


@pytest.mark.parametrize("ahead_s", [0.0, 1.5, -1.5, 86_400.0])
def test_the_wall_clock_decides_nothing(ahead_s: float) -> None:
    machine = Machine(ahead_s)
    machine.look()
    for _ in range(50):
        machine.steady += 0.1
        machine.wall_ahead_s = -ahead_s

        assert 0 <= machine.error_ms < 3


def test_a_slow_look_is_believed_only_where_it_contradicts() -> None:
    machine = Machine()
    machine.look()
    for there_s, back_s in ((0.0, 3.0), (3.0, 0.0), (0.5, 0.5)):
        machine.look(there_s, back_s)

        assert 0 <= machine.error_ms < 6
    machine.clock.forget()
    machine.look(0.0, 0.4)
    assert machine.error_ms < 402
    machine.look()
    assert machine.error_ms < 3


@pytest.mark.parametrize("set_s", [30.0, -30.0])
def test_a_database_whose_clock_is_set_is_followed(set_s: float) -> None:
    machine = Machine()
    machine.look()
    machine.steady += 1
    machine.database_ahead_s = set_s
    machine.look()

    assert 0 <= machine.error_ms < 3


def test_an_offset_beyond_the_bound_is_told_and_one_within_or_unsure_is_not() -> None:
    near, far, unsure = Machine(1.9), Machine(-2.2), Machine(2.5)
    near.look()
    far.look()
    unsure.look(1.0, 1.0)

    assert near.clock.trouble is None
    assert "2.2 s behind the database's" in (far.clock.trouble or "")
    assert unsure.clock.trouble is None


def test_a_jump_is_noticed_before_the_next_look() -> None:
    machine = Machine()
    machine.look()
    machine.steady += 0.5
    assert not machine.clock.has_jumped

    machine.wall_ahead_s = 90.0
    assert machine.clock.has_jumped


def skewed(seconds: float) -> Any:
    return lambda: int((time.time() + seconds) * 1000)


def unrouted(engine: Engine) -> int:
    with transaction(engine) as tx:
        return int(tx.execute(text("select count(*) from events where unrouted")).scalar_one())


def test_an_event_after_the_subscription_is_started_though_the_apis_clock_is_slow(
    engine: Engine, settings: Settings
) -> None:
    sweep = Sweep(engine, settings)
    with accepting(settings, unix_ms=skewed(-1.8)) as slow:
        slow.accept([submission("0", type_="other.type")])  # it has looked at the subscriptions
        subscribe(engine, subscription("fulfil", "shop.*"))
        slow.accept([submission("1")])

    until(lambda: sweep.once() or unrouted(engine) == 1, what="the sweep")
    assert unrouted(engine) == 1


def test_nothing_from_before_the_subscription_starts_though_the_apis_clock_is_fast(
    engine: Engine, settings: Settings
) -> None:
    with accepting(settings, unix_ms=skewed(1.8)) as fast:
        fast.accept([submission(str(number)) for number in range(20)])
    with transaction(engine) as tx:
        ahead = tx.execute(text("select max(accepted_at) - now() from events")).scalar_one()
        tx.execute(text("select pg_sleep(0.05)"))
    subscribe(engine, subscription("fulfil", "shop.*"))

    assert ahead.total_seconds() < 0.5
    assert Sweep(engine, settings).once() == 0


def test_a_clock_beyond_the_bound_takes_nothing_until_it_is_right_again(
    engine: Engine, settings: Settings
) -> None:
    off_s = 60.0
    with accepting(settings, unix_ms=lambda: int((time.time() + off_s) * 1000)) as acceptor:
        with pytest.raises(AcceptUnavailable, match=r"60\.0 s ahead of the database's") as refused:
            acceptor.accept([submission("1")])
        assert acceptor.clock_trouble == str(refused.value)
        off_s = 86_400.0
        with pytest.raises(AcceptUnavailable):
            acceptor.accept([submission("1")])
        off_s = 0.0
        (taken,) = acceptor.accept([submission("1")])

        assert isinstance(taken, Receipt)
        assert acceptor.clock_trouble is None
    with transaction(engine) as tx:
        age = tx.execute(text("select now() - accepted_at from events")).scalar_one()
    assert abs(age.total_seconds()) < 5
