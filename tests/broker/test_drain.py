"""Dead and unroutable messages become rows, each once, and the runs they name come due."""

import json
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Timer
from typing import Any

import pika
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from tests.support.due_runs import add_runs, change_runs, read_runs
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.broker.connect import BrokerAway
from veltrix.broker.drain import Drain
from veltrix.broker.management import Management
from veltrix.broker.message import ListLimits, messages_for
from veltrix.broker.topology import Policy, definitions
from veltrix.domain.dead_letters import DeadLetter
from veltrix.domain.due import DueRun
from veltrix.pipeline.relay import dead_letter_rows
from veltrix.pipeline.relay.dead_letters import bury
from veltrix.store.transactions import transaction


@pytest.fixture
def channel(broker: Broker) -> Iterator[Any]:
    """A pika channel on a virtual host with our nets, to be a foreign producer."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    found = definitions([])
    for exchange in found["exchanges"]:
        channel.exchange_declare(
            exchange["name"], exchange["type"], durable=True, arguments=exchange["arguments"]
        )
    for queue in found["queues"]:
        channel.queue_declare(queue["name"], durable=True, arguments=queue["arguments"])
    for binding in found["bindings"]:
        channel.queue_bind(binding["destination"], binding["source"], binding["routing_key"])
    yield channel
    connection.close()


@pytest.fixture
def drain(broker: Broker, engine: Engine) -> Iterator[Drain]:
    drain = Drain(
        broker.url, name="drain@test", heartbeat_s=30, keep=lambda letters: bury(engine, letters)
    )
    yield drain
    drain.close()


def letters(engine: Engine) -> list[dead_letter_rows.StoredLetter]:
    with transaction(engine) as tx:
        return dead_letter_rows.read(tx)


def drained(drain: Drain, engine: Engine, count: int) -> list[dead_letter_rows.StoredLetter]:
    until(
        lambda: (drain.drain_once(0.1), len(letters(engine)) >= count)[1], what="the dead letters"
    )
    return letters(engine)


def count_left(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def test_an_unroutable_foreign_message_is_a_row_with_all_it_said(
    drain: Drain, engine: Engine, channel: Any
) -> None:
    properties = pika.BasicProperties(content_type="text/plain", headers={"a": 1, "b": [True]})
    channel.basic_publish("veltrix.inbound", "nobody.asked", b"\x00\xffhello", properties)
    (letter,) = drained(drain, engine, 1)

    assert (letter.reason, letter.queue) == ("unroutable", "veltrix.unroutable")
    assert letter.body == b"\x00\xffhello"
    assert letter.content_type == "text/plain"
    assert json.loads(letter.headers) == {"a": 1, "b": [True]}
    assert "nobody.asked" in (letter.detail or "")
    assert letter.run_ids == []


def test_a_rejected_message_is_a_row_with_its_queue_and_reason(
    drain: Drain, engine: Engine, channel: Any
) -> None:
    channel.queue_declare(
        "foreign", durable=True, arguments={"x-dead-letter-exchange": "veltrix.dead"}
    )
    channel.basic_publish("", "foreign", b"poison")
    method = until(lambda: channel.basic_get("foreign")[0], what="the message")
    channel.basic_reject(method.delivery_tag, requeue=False)
    (letter,) = drained(drain, engine, 1)

    assert (letter.reason, letter.queue, letter.body) == ("rejected", "foreign", b"poison")


def our_message(run_ids: list[str]) -> tuple[bytes, pika.BasicProperties]:
    limits = ListLimits(runs_max=250, runs_unmeasured=8, bytes_max=1 << 20, work_s=0.05)
    runs = [DueRun(run_id, "fulfil", "orders") for run_id in run_ids]
    (message,) = messages_for(runs, "relay@test", limits, {})
    return message.body, pika.BasicProperties(message_id=message.id, headers={"task": "fulfil"})


def test_a_dead_letter_of_ours_makes_its_runs_due_and_changes_none(
    drain: Drain, engine: Engine, channel: Any
) -> None:
    ids = add_runs(engine, 3, is_hinted=True)
    change_runs(engine, ids, "due_at = now() + interval '200 seconds'")
    running = "state = 'running', lease_token = gen_random_uuid()"
    change_runs(engine, ids[2:], running)
    body, properties = our_message(ids)
    channel.basic_publish("veltrix.dead", "orders", body, properties)
    (letter,) = drained(drain, engine, 1)

    assert letter.run_ids == ids
    (first, second, held) = read_runs(engine, ids, "state, due_in")
    assert first[0] == second[0] == "queued"
    assert first[1] <= 1
    assert second[1] <= 1
    assert held[0] == "running"
    assert held[1] > 100


def test_the_same_message_of_ours_is_one_row_however_often_it_dies(
    drain: Drain, engine: Engine, channel: Any
) -> None:
    body, properties = our_message(add_runs(engine, 1, is_hinted=True))
    for _ in range(3):
        channel.basic_publish("veltrix.dead", "orders", body, properties)
    until(lambda: (drain.drain_once(0.1), count_left(channel, "veltrix.dead") == 0)[1])
    drain.drain_once(0.3)

    assert len(letters(engine)) == 1


def test_two_foreign_messages_of_one_content_are_two_rows(
    drain: Drain, engine: Engine, channel: Any
) -> None:
    for _ in range(2):
        channel.basic_publish("veltrix.dead", "x", b"again")

    assert len(drained(drain, engine, 2)) == 2


def test_a_message_kept_but_not_acknowledged_is_one_row_when_it_is_delivered_again(
    broker: Broker, engine: Engine, channel: Any
) -> None:
    def keep_and_die(found: list[DeadLetter]) -> int:
        bury(engine, found)
        raise BrokerAway("killed before the acknowledgement")

    channel.basic_publish("veltrix.dead", "x", b"once")
    dying = Drain(broker.url, name="drain@test", heartbeat_s=30, keep=keep_and_die)
    until(lambda: _dies(dying), what="the message to be kept")
    dying.close()
    again = Drain(broker.url, name="d", heartbeat_s=30, keep=lambda found: bury(engine, found))
    until(lambda: (again.drain_once(0.3), count_left(channel, "veltrix.dead") == 0)[1])
    again.drain_once(0.3)
    again.close()

    assert len(letters(engine)) == 1


def _dies(drain: Drain) -> bool:
    try:
        drain.drain_once(0.1)
    except BrokerAway:
        return True
    return False


def test_nothing_is_acknowledged_that_was_not_kept(
    broker: Broker, engine: Engine, channel: Any
) -> None:
    def cannot(_: list[DeadLetter]) -> int:
        raise BrokerAway("the database is away")

    channel.basic_publish("veltrix.dead", "x", b"keep me")
    failing = Drain(broker.url, name="drain@test", heartbeat_s=30, keep=cannot)
    until(lambda: _dies(failing), what="the drain to fail")
    failing.close()

    until(lambda: count_left(channel, "veltrix.dead") == 1, what="the message to be back")


def test_what_cannot_be_kept_for_a_long_time_is_in_hand_and_delivered_once(
    broker: Broker, engine: Engine, channel: Any
) -> None:
    """RabbitMQ 4 drops a message at its 20th delivery where no policy says otherwise."""
    Management(broker.management_url, broker.vhost).put_policy(
        Policy("as-rabbitmq-4", "^veltrix", {"delivery-limit": 20}, 0)
    )
    for number in range(5):
        channel.basic_publish("veltrix.dead", "x", b"%d" % number)
    until(lambda: count_left(channel, "veltrix.dead") == 5, what="the messages")
    is_away, redelivered = True, set[bool]()

    def keep(found: list[DeadLetter]) -> int:
        if is_away:
            raise OperationalError("the database is away", None, Exception())
        redelivered.update(letter.is_copy_possible for letter in found)
        return bury(engine, found)

    drain = Drain(broker.url, name="drain@test", heartbeat_s=30, keep=keep)
    for _ in range(25):
        with suppress(OperationalError):
            drain.drain_once(0.1)
    assert count_left(channel, "veltrix.dead") == 0
    is_away = False
    until(
        lambda: (drain.drain_once(0.1), len(letters(engine)) == 5)[1],
        what="the letters that were in hand",
    )
    drain.close()

    assert {letter.body for letter in letters(engine)} == {b"0", b"1", b"2", b"3", b"4"}
    assert redelivered == {False}


def test_no_message_is_asked_for_while_none_could_be_kept(
    broker: Broker, engine: Engine, channel: Any
) -> None:
    is_away = True

    def try_keeping() -> None:
        if is_away:
            raise OperationalError("the database is away", None, Exception())

    channel.basic_publish("veltrix.dead", "x", b"wait")
    drain = Drain(
        broker.url,
        name="drain@test",
        heartbeat_s=30,
        keep=lambda found: bury(engine, found),
        try_keeping=try_keeping,
    )
    for _ in range(3):
        with pytest.raises(OperationalError):
            drain.drain_once(0.1)
    assert channel.queue_declare("veltrix.dead", passive=True).method.consumer_count == 0
    is_away = False
    assert len(drained(drain, engine, 1)) == 1
    drain.close()


def test_while_a_list_is_being_kept_the_connection_lives(
    broker: Broker, engine: Engine, channel: Any
) -> None:
    """A database that hangs took the connection with it, and each time counted as a delivery."""
    is_let = Event()

    def keep(found: list[DeadLetter]) -> int:
        is_let.wait(20)
        return bury(engine, found)

    channel.basic_publish("veltrix.dead", "x", b"slow")
    drain = Drain(broker.url, name="drain@test", heartbeat_s=1, keep=keep)
    timer = Timer(5, is_let.set)
    timer.start()
    found = drained(drain, engine, 1)
    drain.close()
    timer.join()

    assert [letter.body for letter in found] == [b"slow"]


def test_hostile_headers_are_stored_and_hold_no_neighbour_up(
    drain: Drain, engine: Engine, channel: Any
) -> None:
    hostile: dict[str, Any] = {
        "x-death": "not a list",
        "nul": "a\x00b",
        "bytes": b"\xff\xfe",
        "big": 2**62,
        "deep": [[[[{"a": None}]]]],
    }
    channel.basic_publish("veltrix.dead", "x", b"1", pika.BasicProperties(headers=hostile))
    channel.basic_publish("veltrix.dead", "x", b"2", pika.BasicProperties(message_id="\x00id"))
    found = drained(drain, engine, 2)

    assert sorted(letter.body for letter in found) == [b"1", b"2"]


def test_dead_letters_are_counted_beside_the_books_once(
    drain: Drain, engine: Engine, channel: Any
) -> None:
    body, properties = our_message(add_runs(engine, 1, is_hinted=True))
    for _ in range(2):
        channel.basic_publish("veltrix.dead", "orders", body, properties)
    channel.basic_publish("veltrix.dead", "x", b"foreign")
    drained(drain, engine, 2)
    until(lambda: (drain.drain_once(0.1), count_left(channel, "veltrix.dead") == 0)[1])

    with transaction(engine) as tx:
        counted = tx.execute(
            text("select sum(dead_letters) from counter_deltas where account_id = 0")
        )
        assert counted.scalar_one() == 2


def test_a_letter_marked_seen_is_not_unseen_any_more(engine: Engine) -> None:
    with transaction(engine) as tx:
        dead_letter_rows.insert(tx, [DeadLetter(queue="q", reason="rejected", body=b"x")] * 2)
        first, second = dead_letter_rows.read(tx, unseen_only=True)
        assert dead_letter_rows.mark_seen(tx, [first.id], "alice") == 1
        assert dead_letter_rows.mark_seen(tx, [first.id], "bob") == 0

        assert [x.id for x in dead_letter_rows.read(tx, unseen_only=True)] == [second.id]
        assert dead_letter_rows.read(tx, limit=1)[0].seen_by == "alice"
        assert [x.id for x in dead_letter_rows.read(tx, after=first.id)] == [second.id]
