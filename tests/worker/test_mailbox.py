"""The mailbox: runs that nobody began go back though all children are busy."""

from uuid import uuid4

from veltrix.broker.message import ListLimits
from veltrix.worker.jobs import ListReport
from veltrix.worker.mailbox import Mailbox
from veltrix.worker.parent.collector import Collector, Delivery
from veltrix.worker.parent.giving_back import GivingBack


class Request:
    """What Celery keeps of a message."""

    def __init__(self, message: str) -> None:
        self.message = message


def delivery(*run_ids: str, handed: bytes | None, plain: set[str] | None = None) -> Delivery:
    found = Delivery(
        delivery_id=run_ids[0],
        run_ids=list(run_ids),
        workflow="fulfil",
        queue="orders",
        payload_bytes=0,
        is_alone=False,
        delivered=0.0,
        request=Request(f"message {run_ids[0]}"),
        token=str(uuid4()),
        handed=handed,
    )
    found.plain = plain or set()
    return found


def test_what_is_put_in_comes_out_once_however_long_the_list() -> None:
    mailbox, token = Mailbox(), str(uuid4())
    ids = [str(uuid4()) for _ in range(250)]

    assert mailbox.is_empty
    assert mailbox.put(token, ids)
    assert not mailbox.is_empty
    found: list[str] = []
    while (taken := mailbox.take()) is not None:
        assert taken[0] == token
        found += taken[1]

    assert found == ids
    assert mailbox.is_empty


def test_a_full_mailbox_says_so_and_waits_for_nobody() -> None:
    mailbox = Mailbox()

    assert not all(mailbox.put(str(uuid4()), [str(uuid4())] * 40) for _ in range(10_000))


def test_what_came_as_claimed_goes_to_the_ledger_and_the_rest_to_rabbitmq() -> None:
    requeued: list[str] = []
    acknowledged: list[str] = []
    mailbox = Mailbox()
    giving = GivingBack(mailbox, requeued.append, acknowledged.append)
    collector = Collector(ListLimits(250, 8, 1_000, 0.05), lambda: "token")
    a, b, c = (str(uuid4()) for _ in range(3))
    handed, plain = delivery(a, b, handed=b"{}", plain={b}), delivery(c, handed=None)
    collector.add(handed)
    collector.add(plain)

    assert giving.give_back(collector) == [handed, plain]

    assert (acknowledged, requeued) == ([f"message {a}"], [f"message {c}"])
    assert mailbox.take() == (handed.token, [a]), "a child had the other one before"
    assert mailbox.take() is None


def test_what_a_dead_connection_gave_begins_nothing_any_more() -> None:
    giving = GivingBack(Mailbox(), lambda _m: None, lambda _m: None)
    limits = ListLimits(runs_max=1, runs_unmeasured=1, bytes_max=1_000, work_s=0.05)
    collector = Collector(limits, lambda: "token")
    a, b = str(uuid4()), str(uuid4())
    collector.add(delivery(a, b, handed=b"{}"))
    first = collector.next_list()
    assert first is not None
    assert first.job.handed == {a: b"{}"}

    for forgotten in collector.forget_waiting():
        assert giving.hand_back(forgotten, list(forgotten.waiting))
    collector.finished("token", ListReport({a: "lost"}, {}))

    while (later := collector.next_list()) is not None:
        assert later.job.handed == {}
        collector.finished("token", ListReport({}, {}), may_try_again=False)


def test_what_the_mailbox_has_no_room_for_waits_and_is_not_done() -> None:
    mailbox = Mailbox()
    giving = GivingBack(mailbox, lambda _m: None, lambda _m: None)
    deliveries = [delivery(str(uuid4()), handed=b"{}") for _ in range(2_000)]
    for one in deliveries:
        assert giving.hand_back(one, [one.delivery_id])
    assert not giving.is_done

    found: set[str] = set()
    while not giving.is_done:
        while (taken := mailbox.take()) is not None:
            found.update(taken[1])
        giving.flush()

    assert found == {one.delivery_id for one in deliveries}
