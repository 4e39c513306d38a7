"""Credit: who may hint how many runs, until the queues are looked at again."""

from veltrix.broker.message import Message
from veltrix.pipeline.relay.credit import REFUSED_PAUSE_S, STALE_S, Credit

lows: list[int] = []


def credit(left: int = 10, runs_max: int = 100) -> Credit:
    lows.clear()
    made = Credit(runs_max, lambda: lows.append(1))
    made.looked({"orders": left}, 0.0)
    return made


def message(runs: int) -> Message:
    return Message("m", "orders", "fulfil", [f"run-{n}" for n in range(runs)], b"", b"")


def test_room_is_given_out_once() -> None:
    one = credit(10)

    assert one.take("orders", 7, 0.0, is_open=True) == 7
    assert one.take("orders", 7, 0.0, is_open=True) == 3
    assert one.take("orders", 7, 0.0, is_open=True) == 0
    assert one.take("mails", 7, 0.0, is_open=True) == 0, "a queue that was not looked at"


def test_nothing_is_given_while_rabbitmq_is_away_or_the_look_is_old() -> None:
    one = credit()

    assert one.take("orders", 1, 0.0, is_open=False) == 0
    assert one.take("orders", 1, STALE_S, is_open=True) == 0
    assert lows == [], "another look would find no more"
    assert one.take("orders", 1, STALE_S - 0.1, is_open=True) == 1


def test_a_look_is_wished_for_when_half_is_gone() -> None:
    one = credit(10)

    one.take("orders", 5, 0.0, is_open=True)
    assert lows == []
    one.take("orders", 1, 0.0, is_open=True)

    assert lows == [1]


def test_so_many_runs_are_on_their_way_at_most() -> None:
    one = credit(10, runs_max=4)

    assert one.sent([message(3)]) == 3
    assert one.take("orders", 9, 0.0, is_open=True) == 1
    one.answered([message(3)])

    assert one.take("orders", 9, 0.0, is_open=True) == 4


def test_a_queue_that_refuses_gets_nothing_for_a_while() -> None:
    one = credit()
    one.refused([message(1)], 0.0)

    assert one.take("orders", 1, REFUSED_PAUSE_S - 0.1, is_open=True) == 0
    assert one.take("orders", 1, REFUSED_PAUSE_S + 0.1, is_open=True) == 1


def test_a_lost_connection_takes_all_credit_until_the_next_look() -> None:
    one = credit(10, runs_max=4)
    one.sent([message(4)])
    one.forget()

    assert one.take("orders", 1, 0.1, is_open=True) == 0
    one.looked({"orders": 10}, 0.2)
    assert one.take("orders", 9, 0.2, is_open=True) == 4
