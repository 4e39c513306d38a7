"""A queue that is there as the other type is made anew when it is empty, and loses nothing."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.conftest import SettingsOf
from tests.pipeline.test_relay import Clock, channel, fetch, relaying, settle_down
from tests.support.broken_queue import silent
from tests.support.due_runs import add_runs, change_runs, read_runs, subscribe
from tests.support.limited_user import account_of, limited_user
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker import broken, topology
from veltrix.broker.management import Management
from veltrix.broker.names import RUNS
from veltrix.broker.rights import users
from veltrix.pipeline.relay.connections import Asking, make_declarer
from veltrix.pipeline.relay.declaring import Declaring
from veltrix.pipeline.relay.renewing import (
    CHANGE_LOOK_S,
    EMPTYING_MAX,
    EMPTYING_S,
    REST_S,
    Changing,
)
from veltrix.settings.fields import Settings

__all__ = ["channel"]

SETTLED = "state = 'succeeded', due_at = null, settled_at = now()"
BOTH_WAYS = pytest.mark.parametrize(
    ("old", "new"), [("quorum", "classic"), ("classic", "quorum")], ids=["to_classic", "to_quorum"]
)


def declare(channel: Any, type_: str, queue: str = "orders", /, **arguments: Any) -> None:
    """It is there afterwards, of that type; raises if it is of another."""
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": type_} | arguments)


def take(channel: Any) -> list[Any]:
    """The bodies of all messages, by a channel that has never seen the queue before.

    One that asked for a message of the other type is ended with an internal error by RabbitMQ.
    """
    with closing(channel.connection.channel()) as new:
        return [body for _, body in fetch(new)]


def ids_of(bodies: list[Any]) -> list[str]:
    return [run_id for body in bodies for run_id in body[0][0]]


class Trial:
    """What one relay knows of types, with a clock that a test moves."""

    def __init__(self, settings: Settings, broker: Broker, *, has_management: bool = True) -> None:
        self.clock = Clock()
        self.declarer = make_declarer(settings, "test")
        self.declaring = Declaring(self.declarer, "relay", self.clock)
        management = Management(broker.management_url, broker.vhost) if has_management else None
        self.changing = Changing(Asking(settings, "test"), management, self.clock)

    def declare(self, *queues: str) -> None:
        """As at the beginning of a connection."""
        self.declaring.reconnected()
        self.declaring.go_on(queues, {})

    def look(self) -> int:
        """How many were changed by the next look."""
        self.clock.now += CHANGE_LOOK_S
        return self.changing.go_on(self.declaring)


@pytest.fixture
def trials(settings_of: SettingsOf, broker: Broker) -> Iterator[Any]:
    made: list[Trial] = []

    def make(type_: str, *, has_management: bool = True, **changes: Any) -> Trial:
        settings = settings_of(queue_type=type_, **changes)
        made.append(Trial(settings, broker, has_management=has_management))
        return made[-1]

    yield make
    for one in made:
        one.declarer.close()


@BOTH_WAYS
def test_a_relay_changes_a_queue_between_two_runs(
    settings_of: SettingsOf, engine: Engine, channel: Any, broker: Broker, old: str, new: str
) -> None:
    subscribe(engine)
    totals = Management(broker.management_url, broker.vhost)
    with relaying(settings_of(queue_type=old), engine) as relay:
        before = add_runs(engine, 2)
        settle_down(relay)
    declare(channel, old)
    assert ids_of(take(channel)) == before
    change_runs(engine, before, SETTLED)

    with relaying(settings_of(queue_type=new), engine, totals=totals) as relay:
        changed = 0

        def is_changed() -> bool:
            nonlocal changed
            changed += relay.relay_once().changed
            return changed > 0

        until(is_changed, what="the queue to be changed")
        after = add_runs(engine, 2)
        settle_down(relay)

    declare(channel, new)
    assert ids_of(take(channel)) == after
    assert changed == 1


@BOTH_WAYS
def test_what_is_in_it_goes_first_and_nothing_comes_to_it_meanwhile(
    settings_of: SettingsOf, engine: Engine, channel: Any, broker: Broker, old: str, new: str
) -> None:
    subscribe(engine)
    totals = Management(broker.management_url, broker.vhost)
    declare(channel, old)
    channel.confirm_delivery()
    channel.basic_publish("", "orders", b'"what a worker is about to have"')
    with relaying(settings_of(queue_type=new), engine, totals=totals) as relay:
        relay.relay_once()
        assert relay._changing.emptying
        ids = add_runs(engine, 2)
        for _ in range(20):
            assert not relay.relay_once().changed
        assert read_runs(engine, ids, "hand_overs") == [(0,), (0,)]
        assert take(channel) == ["what a worker is about to have"]

        until(lambda: relay.relay_once().changed, what="the queue to be changed")
        settle_down(relay)

    declare(channel, new)
    assert ids_of(take(channel)) == ids


@BOTH_WAYS
def test_it_has_its_bindings_again_those_of_others_too(
    trials: Any, channel: Any, old: str, new: str
) -> None:
    declare(channel, old)
    channel.exchange_declare("theirs", "topic", durable=True)
    channel.queue_bind("orders", "theirs", "a.#", arguments={"x-note": "1"})
    one = trials(new)
    one.declare("orders")

    assert one.look() == 1

    channel.basic_publish("theirs", "a.b", b'"theirs"')
    channel.basic_publish("veltrix.runs", "orders", b'"ours"')
    found: list[Any] = []

    def both_arrived() -> bool:
        found.extend(take(channel))
        return sorted(found) == ["ours", "theirs"]

    until(both_arrived, what="both")


def test_a_queue_that_does_not_run_empty_is_used_as_it_is_for_a_while(
    trials: Any, channel: Any
) -> None:
    declare(channel, "quorum")
    channel.confirm_delivery()
    channel.basic_publish("", "orders", b"nobody takes it")
    one = trials("classic")
    one.declare("orders")
    began = one.clock.now

    for _ in range(10):
        assert one.look() == 0
        assert one.changing.emptying
    one.clock.now = began + CHANGE_LOOK_S + EMPTYING_S
    for _ in range(10):
        assert one.look() == 0
        assert not one.changing.emptying
    one.clock.now = began + CHANGE_LOOK_S + REST_S
    assert one.look() == 0
    assert one.changing.emptying
    declare(channel, "quorum")


def test_a_queue_with_arguments_is_none_of_ours(trials: Any, channel: Any) -> None:
    declare(channel, "classic", **{"x-max-length": 5})
    one = trials("quorum")
    one.declare("orders")

    assert one.look() == 0
    assert not one.changing.emptying
    declare(channel, "classic", **{"x-max-length": 5})


def test_one_that_says_nothing_is_not_taken_for_empty(
    trials: Any, broker: Broker, channel: Any
) -> None:
    declare(channel, "quorum")
    channel.confirm_delivery()
    channel.basic_publish("", "orders", b'"kept"')
    one = trials("classic")
    one.declare("orders")

    with silent(broker, "orders"):
        assert one.look() == 0

    until(lambda: take(channel) == ["kept"], what="the message, still")


def test_who_may_not_declare_deletes_nothing(trials: Any, broker: Broker, channel: Any) -> None:
    declare(channel, "quorum")
    one = trials("classic", broker_url=limited_user(broker.management_url, broker.url, "nobody"))
    one.declaring.of_other_type.add("orders")

    assert one.look() == 0
    declare(channel, "quorum")


def test_two_relays_of_different_settings_do_not_undo_each_other_again_and_again(
    trials: Any, channel: Any
) -> None:
    declare(channel, "quorum")
    first, second = trials("classic"), trials("quorum")
    first.declare("orders")
    assert first.look() == 1
    second.declare("orders")
    assert second.look() == 1

    first.declare("orders")
    assert first.look() == 0  # it rests
    assert not first.changing.emptying


def test_who_comes_second_finds_it_done(trials: Any, channel: Any) -> None:
    declare(channel, "quorum")
    first, second = trials("classic"), trials("classic")
    first.declare("orders")
    second.declare("orders")
    assert first.look() == 1
    channel.confirm_delivery()
    channel.basic_publish("", "orders", b'"new"')

    assert second.look() == 0
    assert not second.declaring.of_other_type
    assert take(channel) == ["new"]


def test_many_queues_are_emptied_some_at_a_time(trials: Any, channel: Any) -> None:
    names = [f"q{number}" for number in range(EMPTYING_MAX + 2)]
    for name in names:
        declare(channel, "classic", name)
    one = trials("quorum")
    one.declare()
    one.declaring.of_other_type.update(names)

    changed = 0
    for _ in names:
        changed += one.look()
        assert len(one.changing.emptying) < EMPTYING_MAX

    assert changed == len(names)
    for name in names:
        declare(channel, "quorum", name)


def test_each_of_many_queues_is_found_to_be_of_another_type(trials: Any, channel: Any) -> None:
    """RabbitMQ tells a type by refusing a declaration, and a call bears a few refusals only."""
    names = [f"q{number:02}" for number in range(20)]
    for name in names:
        declare(channel, "classic", name)
    one = trials("quorum")
    one.declaring.reconnected()

    found = [one.declaring.go_on(names, {})]
    while found[-1].has_news:
        found.append(one.declaring.go_on(names, {}))

    assert one.declaring.of_other_type == set(names)
    assert sorted(name for part in found for name in part.empty) == names, "told once"
    assert sum(one.look() for _ in names) == len(names)


@BOTH_WAYS
def test_who_only_uses_queues_uses_one_of_the_other_type(
    trials: Any, broker: Broker, channel: Any, old: str, new: str
) -> None:
    from veltrix.broker import topology
    from veltrix.broker.connect import close_connection, open_connection

    declare(channel, old)
    connection = open_connection(broker.url, name="tests", heartbeat_s=0)
    try:
        topology.declare(connection.channel(), ["orders", "mails"], new)  # type: ignore[arg-type]
    finally:
        close_connection(connection)

    declare(channel, old)
    declare(channel, new, "mails")


def bound_by_others(channel: Any, broker: Broker) -> set[str]:
    """From which exchanges of others the queue gets messages."""
    found = Management(broker.management_url, broker.vhost).bindings_of("orders")
    return {exchange for exchange, _, _ in found} - {RUNS}


def bind_theirs(channel: Any) -> None:
    declare(channel, "quorum")
    for exchange in ("celeryworld", "theirs"):
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.queue_bind("orders", exchange, "a.#")


def test_a_queue_with_a_binding_that_we_may_not_make_again_stays_as_it_is(
    trials: Any, broker: Broker, channel: Any
) -> None:
    bind_theirs(channel)
    relay = next(user for user in users() if user.role == "relay")
    url, _ = account_of(broker, relay)
    one = trials("classic", broker_url=url)
    one.declare("orders")

    assert one.look() == 0

    assert bound_by_others(channel, broker) == {"celeryworld", "theirs"}
    declare(channel, "quorum")


def test_who_declares_it_in_the_gap_takes_no_binding_away(
    trials: Any, broker: Broker, channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of the other setting is faster, right after the deletion."""
    bind_theirs(channel)
    one = trials("classic")
    one.declare("orders")
    times, really = 0, topology.declare_either

    def late(*words: Any) -> Any:
        nonlocal times
        times += 1
        if times == 2:
            with closing(channel.connection.channel()) as other:
                declare(other, "quorum")
        return really(*words)

    monkeypatch.setattr(broken, "declare_either", late)
    assert one.look() == 0

    assert times == 2
    assert bound_by_others(channel, broker) == {"celeryworld", "theirs"}


def test_without_the_management_api_no_queue_is_deleted(
    trials: Any, broker: Broker, channel: Any
) -> None:
    bind_theirs(channel)
    one = trials("classic", has_management=False)
    one.declare("orders")

    assert one.look() == 0

    assert bound_by_others(channel, broker) == {"celeryworld", "theirs"}
