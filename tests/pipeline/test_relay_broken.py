"""A queue that RabbitMQ names and cannot serve any more is renewed; no other is ever deleted."""

from collections.abc import Callable
from typing import Any

import pika
import pytest
from sqlalchemy import Engine

from tests.conftest import SettingsOf
from tests.pipeline.test_relay import Clock, channel, fetch, names_in, relaying, settle_down
from tests.support.broken_queue import break_queue, silent
from tests.support.due_runs import add_runs, subscribe
from tests.support.limited_user import limited_user
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker.broken import Health, health_of
from veltrix.broker.management import Management
from veltrix.pipeline.relay.connections import Asking
from veltrix.pipeline.relay.renewing import FORGET_S, LOOK_S_MAX, REFUSALS_MIN, REFUSING_S, Renewing
from veltrix.settings.fields import Settings

__all__ = ["channel"]

QUORUM = {"x-queue-type": "quorum"}
CLASSIC = {"x-max-length": 0, "x-overflow": "reject-publish"}
Make = Callable[..., "Trial"]


class Trial:
    """A relay's memory of refusals, with a clock that a test moves."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self.clock = Clock()
        self.asking = Asking(settings, "test")
        management = Management(broker.management_url, broker.vhost)
        self.renewing = Renewing(self.asking, management, self.clock)

    def refuse(self, *queues: str) -> list[str | None]:
        """Enough refusals for two looks; what became of each."""
        done = []
        for _ in range(2):
            for _ in range(REFUSALS_MIN):
                self.renewing.refused(queues)
                self.clock.now += REFUSING_S
            done += [self.renewing.go_on() for _ in queues]
        return done


@pytest.fixture
def trial(settings_of: SettingsOf, broker: Broker, channel: Any) -> Make:
    channel.exchange_declare("veltrix.runs", "topic", durable=True)

    def make(url: str = broker.url) -> Trial:
        return Trial(settings_of(broker_url=url), broker)

    return make


def messages(broker: Broker, queue: str = "orders") -> list[bytes]:
    """Everything in the queue, given back."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    own, found = connection.channel(), []
    while (got := own.basic_get(queue))[0] is not None:
        found.append(got[2])
    connection.close()
    return found


def test_a_broken_queue_is_renewed_and_its_runs_arrive(
    settings_of: SettingsOf, engine: Engine, broker: Broker, channel: Any
) -> None:
    subscribe(engine, "fulfil", "orders")
    with relaying(settings_of(confirm_timeout_s=2), engine) as relay:
        before = add_runs(engine, 2)
        settle_down(relay)
        break_queue(broker, "orders")
        after = add_runs(engine, 2)
        renewed = 0

        def is_renewed() -> bool:
            nonlocal renewed
            renewed += relay.relay_once().renewed
            return renewed > 0

        until(is_renewed, what="the queue to be renewed", deadline_s=40)
        settle_down(relay)

        assert renewed == 1
        assert sorted(set(names_in(fetch(channel)))) == sorted(before + after)


def test_it_has_its_bindings_again_those_of_others_too(
    trial: Make, broker: Broker, channel: Any
) -> None:
    channel.queue_declare("orders", durable=True, arguments=QUORUM)
    channel.exchange_declare("theirs", "topic", durable=True)
    channel.queue_bind("orders", "theirs", "a.#", arguments={"x-note": "1"})
    break_queue(broker, "orders")

    assert trial().refuse("orders") == [None, "orders"]

    channel.basic_publish("theirs", "a.b", b"theirs")
    channel.basic_publish("veltrix.runs", "orders", b"ours")
    until(lambda: sorted(messages(broker)) == [b"ours", b"theirs"], what="both")


def test_many_broken_queues_are_renewed_one_after_the_other(
    trial: Make, broker: Broker, channel: Any
) -> None:
    names = [f"q{number}" for number in range(20)]
    for name in names:
        channel.queue_declare(name, durable=True, arguments=QUORUM)
    for name in names[:3]:
        break_queue(broker, name)
    one = trial()

    done = [name for name in one.refuse(*names) if name]

    assert sorted(done) == names[:3]


@pytest.mark.parametrize("is_slow", [False, True], ids=["full", "full_and_slow"])
def test_a_full_queue_is_not_renewed_however_slow(
    trial: Make, broker: Broker, channel: Any, is_slow: bool
) -> None:
    channel.queue_declare("orders", durable=True, arguments=QUORUM)
    for _ in range(5):
        channel.basic_publish("", "orders", b"in the way")
    until(lambda: len(messages(broker)) == 5, what="the messages")
    one = trial()

    if is_slow:
        with silent(broker, "orders"):
            assert one.refuse("orders") == [None, None]
    else:
        assert one.refuse("orders") == [None, None]

    until(lambda: len(messages(broker)) == 5, what="the messages, still")


def test_an_empty_queue_that_refused_once_is_not_renewed(
    trial: Make, broker: Broker, channel: Any
) -> None:
    channel.queue_declare("orders", durable=True, arguments=QUORUM)
    channel.exchange_declare("theirs", "topic", durable=True)
    channel.queue_bind("orders", "theirs", "a")

    assert trial().refuse("orders") == [None, None]
    channel.basic_publish("theirs", "a", b"after")
    until(lambda: messages(broker) == [b"after"], what="what is bound by others")


def test_a_queue_that_is_none_of_ours_stays_as_it_is(
    trial: Make, channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.queue_declare("orders", durable=True, arguments=CLASSIC)
    one = trial()
    monkeypatch.setattr(one.asking, "health_of", lambda _queue: Health.BROKEN)

    assert one.refuse("orders") == [None, None]
    channel.queue_declare("orders", durable=True, arguments=CLASSIC)  # not another


def test_who_may_not_declare_deletes_nothing(trial: Make, broker: Broker, channel: Any) -> None:
    names = [f"q{number}" for number in range(6)]
    for name in names:
        channel.queue_declare(name, durable=True, arguments=QUORUM)
    break_queue(broker, names[0])
    one = trial(limited_user(broker.management_url, broker.url, "nobody"))

    assert one.refuse(*names) == [None] * 12
    assert health_of(broker.url, names[0], name="test") is Health.BROKEN


def test_what_took_a_message_or_was_long_ago_is_not_looked_at(
    trial: Make, broker: Broker, channel: Any
) -> None:
    channel.queue_declare("orders", durable=True, arguments=QUORUM)
    break_queue(broker, "orders")

    took, old, other = trial(), trial(), trial()
    for one in (took, old, other):
        for _ in range(REFUSALS_MIN):
            one.renewing.refused(["orders"])
            one.clock.now += REFUSING_S
    took.renewing.took(["orders"])
    old.clock.now += FORGET_S
    other.renewing.reconnected()

    for one in (took, old, other):
        assert one.renewing.go_on() is None
        one.clock.now += LOOK_S_MAX
        assert one.renewing.go_on() is None
    assert health_of(broker.url, "orders", name="test") is Health.BROKEN


def test_what_a_queue_is_asked_and_answers(trial: Make, broker: Broker, channel: Any) -> None:
    for name in ("well", "filled", "hung", "broken"):
        channel.queue_declare(name, durable=True, arguments=QUORUM)
    channel.basic_publish("", "filled", b"stays")
    until(lambda: messages(broker, "filled") == [b"stays"])
    break_queue(broker, "broken")
    told = limited_user(broker.management_url, broker.url, "asks", read="^nothing$")
    with silent(broker, "hung"):
        found = {
            name: health_of(broker.url, name, name="test")
            for name in ("well", "filled", "hung", "broken", "missing")
        }

    assert found == {
        "well": Health.SERVED,
        "filled": Health.SERVED,
        "hung": Health.SILENT,
        "broken": Health.BROKEN,
        "missing": Health.MISSING,
    }
    assert health_of(told, "well", name="test") is Health.REFUSED
    assert health_of("amqp://127.0.0.1:1", "well", name="test") is Health.UNKNOWN
    assert messages(broker, "filled") == [b"stays"]
