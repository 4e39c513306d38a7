"""The collector: what goes to the next free child, and what may be acknowledged."""

from itertools import count

from veltrix.broker.message import ListLimits
from veltrix.domain.dead_letters import DeadLetter
from veltrix.worker.jobs import ListReport
from veltrix.worker.parent.collector import Collector, Delivery, InFlight


def collector(
    *, runs_max: int = 250, work_s: float = 0.05, bytes_max: int = 1_000, runs_unmeasured: int = 8
) -> Collector:
    numbers = count(1)
    limits = ListLimits(runs_max, runs_unmeasured, bytes_max, work_s)
    return Collector(limits, lambda: f"token-{next(numbers)}")


def message(
    *run_ids: str,
    queue: str = "orders",
    workflow: str = "fulfil",
    payload_bytes: int = 0,
    is_alone: bool = False,
    letter: DeadLetter | None = None,
    returns: int = 0,
    handed: bytes | None = None,
) -> Delivery:
    return Delivery(
        delivery_id=run_ids[0],
        run_ids=list(run_ids),
        workflow=workflow,
        queue=queue,
        payload_bytes=payload_bytes,
        is_alone=is_alone,
        delivered=0.0,
        letter=letter,
        returns=returns,
        token=None if handed is None else f"of {run_ids[0]}",
        handed=handed,
    )


def many(first: int, runs: int) -> list[str]:
    return [f"run-{number}" for number in range(first, first + runs)]


def runs_of(in_flight: InFlight | None) -> list[str]:
    assert in_flight is not None
    return [run_id for run_id, _ in in_flight.job.deliveries]


def report(in_flight: InFlight, *, occupied_s: float, workflow: str = "fulfil") -> ListReport:
    return ListReport(dict.fromkeys(runs_of(in_flight), "succeeded"), {workflow: (occupied_s, 1)})


def measured(seen: Collector, occupied_s: float, workflow: str = "fulfil") -> None:
    """The collector learns what one run of the workflow costs."""
    seen.add(message("measured", workflow=workflow))
    in_flight = seen.next_list()
    assert in_flight is not None
    seen.finished(in_flight.job.token, report(in_flight, occupied_s=occupied_s, workflow=workflow))


def test_nothing_waiting_is_no_list() -> None:
    assert collector().next_list() is None


def test_everything_that_waits_goes_as_one_list_whatever_message_brought_it() -> None:
    seen = collector()
    measured(seen, 0.0001)

    for number in range(5):
        seen.add(message(*many(number * 10, 10)))

    assert runs_of(seen.next_list()) == many(0, 50)
    assert seen.waiting() == 0
    assert seen.next_list() is None


def test_a_list_is_bounded_by_its_count_and_a_message_may_be_split() -> None:
    seen = collector(runs_max=7)
    measured(seen, 0.0)

    seen.add(message(*many(0, 10)))
    seen.add(message(*many(10, 4)))

    assert [runs_of(seen.next_list()) for _ in range(2)] == [many(0, 7), many(7, 7)]


def test_a_workflow_nobody_has_measured_starts_with_a_few() -> None:
    seen = collector(runs_unmeasured=8)

    seen.add(message(*many(0, 20)))

    assert [len(runs_of(seen.next_list())) for _ in range(3)] == [8, 8, 4]


def test_a_list_is_bounded_by_its_estimated_work_but_never_empty() -> None:
    seen = collector(work_s=0.05)
    measured(seen, 0.0101)
    seen.add(message(*many(0, 10)))

    assert len(runs_of(seen.next_list())) == 4

    measured_slow = collector(work_s=0.05)
    measured(measured_slow, 3.0)
    measured_slow.add(message(*many(0, 3)))

    assert [runs_of(measured_slow.next_list()) for _ in range(3)] == [[x] for x in many(0, 3)]


def test_the_estimate_follows_what_lists_report() -> None:
    seen = collector()
    for _ in range(30):
        measured(seen, 0.001)
    seen.add(message(*many(0, 100)))
    before = len(runs_of(seen.next_list()))
    seen.forget_waiting()

    for _ in range(30):
        measured(seen, 0.01)
    seen.add(message(*many(0, 100)))

    assert before in {49, 50}
    assert len(runs_of(seen.next_list())) in {4, 5}


def test_a_list_is_bounded_by_its_payload_but_one_run_always_goes() -> None:
    seen = collector(bytes_max=1_000)
    measured(seen, 0.0)

    seen.add(message("a", "b", "c", payload_bytes=1_200))
    seen.add(message("big", payload_bytes=5_000))

    assert [runs_of(seen.next_list()) for _ in range(3)] == [["a", "b"], ["c"], ["big"]]


def test_a_run_that_must_travel_alone_is_never_joined_to_a_list() -> None:
    seen = collector()
    measured(seen, 0.0)

    seen.add(message("a"))
    seen.add(message("alone", is_alone=True))
    seen.add(message("b"))

    assert [runs_of(seen.next_list()) for _ in range(3)] == [["a"], ["alone"], ["b"]]


def test_queues_are_served_in_turn() -> None:
    seen = collector(runs_max=2)
    measured(seen, 0.0)
    for number in range(3):
        seen.add(message(*(f"flood-{number}-{x}" for x in range(2)), queue="flood"))
    seen.add(message("a", queue="orders"))
    seen.add(message("b", queue="mails"))

    lists = []
    while (in_flight := seen.next_list()) is not None:
        lists.append(in_flight.queue)
        seen.lost(in_flight.job.token)

    assert sorted(lists[:3]) == ["flood", "mails", "orders"]
    assert lists[3:] == ["flood", "flood"]


def test_the_queue_that_holds_the_fewest_children_goes_first() -> None:
    seen = collector(runs_max=1)
    seen.add(message(*many(0, 9), queue="flood"))
    held = [seen.next_list() for _ in range(2)]
    assert [one and one.queue for one in held] == ["flood", "flood"]

    seen.add(message("a", "b", queue="orders"))
    lists = [seen.next_list() for _ in range(3)]

    assert [one and one.queue for one in lists][:2] == ["orders", "orders"]


def test_a_message_is_done_when_each_of_its_runs_is_done() -> None:
    seen = collector(runs_max=2)
    measured(seen, 0.0)
    one = message("a", "b", "c")
    seen.add(one)
    first, second = seen.next_list(), seen.next_list()
    assert first is not None
    assert second is not None

    seen.finished(second.job.token, report(second, occupied_s=0.0))
    assert one.open_runs == {"a", "b"}
    seen.finished(first.job.token, report(first, occupied_s=0.0))

    assert not one.open_runs
    assert one.outcomes == dict.fromkeys("abc", "succeeded")
    assert not seen.in_flight


def test_a_copy_of_a_message_in_the_same_list_is_claimed_once_and_done_with_it() -> None:
    seen = collector()
    original, copy = message("a", "b"), message("a", "b")
    seen.add(original)
    seen.add(copy)

    in_flight = seen.next_list()
    assert in_flight is not None
    assert in_flight.job.deliveries == [("a", "a"), ("b", "a")]
    assert in_flight.deliveries == [original, copy], "both are acknowledged with it"

    seen.finished(in_flight.job.token, report(in_flight, occupied_s=0.0))

    assert not original.open_runs
    assert not copy.open_runs
    assert seen.waiting() == 0


def test_runs_of_a_dead_child_go_again_each_alone_before_what_waits() -> None:
    seen = collector(runs_max=4)
    measured(seen, 0.0)
    one, two, split = message("a", "b"), message("c"), message("d", "e", "f")
    for each in (one, two, split):
        seen.add(each)
    in_flight = seen.next_list()
    assert runs_of(in_flight) == ["a", "b", "c", "d"]
    assert in_flight is not None
    seen.add(message("g"))

    assert seen.lost(in_flight.job.token) is in_flight
    assert not seen.in_flight
    assert one.open_runs == {"a", "b"}, "nothing is acknowledged before somebody has freed them"
    seen.take_again(in_flight)

    assert [runs_of(seen.next_list()) for _ in range(5)] == [
        ["a"], ["b"], ["c"], ["d"], ["e", "f", "g"]
    ]  # fmt: skip
    assert seen.waiting() == 0


def test_runs_that_were_lost_to_a_child_are_named_again_once_before_what_waits() -> None:
    seen = collector(runs_max=4)
    measured(seen, 0.0)
    one = message("a", "b")
    seen.add(one)
    in_flight = seen.next_list()
    assert in_flight is not None
    seen.add(message("c"))

    told = ListReport({"a": "lost", "b": "succeeded"}, {"fulfil": (0.0, 1)})
    seen.finished(in_flight.job.token, told)
    assert one.open_runs == {"a"}
    again = seen.next_list()
    assert runs_of(again) == ["a", "c"]
    assert again is not None

    seen.finished(again.job.token, ListReport({"a": "absent", "c": "lost"}, {"fulfil": (0.0, 1)}))
    assert one.outcomes == {"a": "absent", "b": "succeeded"}
    assert runs_of(seen.next_list()) == ["c"]


def test_a_worker_that_leaves_names_nothing_again() -> None:
    seen = collector()
    one = message("a")
    seen.add(one)
    in_flight = seen.next_list()
    assert in_flight is not None

    told = ListReport({"a": "lost"}, {"fulfil": (0.0, 1)})
    seen.finished(in_flight.job.token, told, may_try_again=False)

    assert not one.open_runs
    assert seen.next_list() is None


def test_a_run_of_two_copies_goes_again_once_and_the_copy_is_done() -> None:
    seen = collector()
    original, copy = message("a"), message("a")
    seen.add(original)
    seen.add(copy)
    in_flight = seen.next_list()
    assert in_flight is not None

    seen.take_again(seen.lost(in_flight.job.token))

    assert (original.open_runs, copy.open_runs) == ({"a"}, set())
    assert runs_of(seen.next_list()) == ["a"]
    assert seen.next_list() is None


def test_what_is_given_up_is_done_and_its_runs_are_lost() -> None:
    seen = collector()
    one = message("a", "b")
    seen.add(one)
    in_flight = seen.next_list()
    assert in_flight is not None

    seen.give_up(seen.lost(in_flight.job.token))

    assert not one.open_runs
    assert one.outcomes == {"a": "lost", "b": "lost"}
    assert seen.next_list() is None


def test_a_lost_connection_forgets_what_waits_and_keeps_what_is_in_hand() -> None:
    seen = collector(runs_max=2)
    split, waiting = message("a", "b", "c"), message("d", queue="mails")
    seen.add(split)
    in_flight = seen.next_list()
    seen.add(waiting)
    assert in_flight is not None

    assert seen.forget_waiting() == [split, waiting]

    assert seen.next_list() is None
    assert list(seen.in_flight) == [in_flight.job.token]

    seen.finished(in_flight.job.token, report(in_flight, occupied_s=0.0))
    assert split.open_runs == {"c"}


def test_a_message_for_an_unknown_task_takes_its_letter_along() -> None:
    seen = collector()
    letter = DeadLetter(queue="orders", reason="unknown_task")
    seen.add(message("a", letter=letter))
    seen.add(message("b"))

    in_flight = seen.next_list()

    assert in_flight is not None
    assert in_flight.job.letters == {"a": letter}


def test_what_waits_is_taken_back_and_what_a_child_has_is_not() -> None:
    seen = collector(runs_max=2)
    split, whole = message("run-1", "run-2", "run-3"), message("run-4", queue="other")
    seen.add(split)
    seen.add(whole)
    in_flight = seen.next_list()
    assert runs_of(in_flight) == ["run-1", "run-2"]

    assert seen.take_back() == [(split, ["run-3"]), (whole, ["run-4"])]
    assert seen.waiting() == 0
    assert split.is_acknowledged
    assert split.open_runs == {"run-1", "run-2"}
    assert whole.open_runs == set()
    assert not seen.take_back()
    assert seen.next_list() is None


def test_what_was_given_back_often_waits_here() -> None:
    """RabbitMQ makes a dead letter of a message that comes back too often."""
    seen = collector()
    often, seldom = message("run-1", returns=8), message("run-2", returns=7)
    seen.add(often)
    seen.add(seldom)

    assert seen.take_back() == [(seldom, ["run-2"])]
    assert runs_of(seen.next_list()) == ["run-1"]


def test_what_was_in_the_hand_of_a_dead_child_is_not_given_back() -> None:
    seen = collector()
    seen.add(message("run-1"))
    in_flight = seen.next_list()
    assert in_flight is not None
    seen.take_again(seen.lost(in_flight.job.token))

    assert not seen.take_back()
    assert runs_of(seen.next_list()) == ["run-1"]


def test_what_is_handed_over_goes_with_each_list_that_has_a_part_of_it() -> None:
    seen = collector(runs_max=2)
    seen.add(message("run-1", "run-2", "run-3", handed=b"1"))
    seen.add(message("run-4"))

    first, second = seen.next_list(), seen.next_list()

    assert first is not None
    assert second is not None
    assert (first.job.handed, first.tokens) == ({"run-1": b"1"}, ["of run-1"])
    assert (second.job.handed, runs_of(second)) == ({"run-1": b"1"}, ["run-3", "run-4"])


def test_what_a_child_had_before_is_claimed_whatever_its_message_carries() -> None:
    seen = collector()
    seen.add(message("run-1", "run-2", handed=b"1"))
    lost = seen.next_list()
    assert lost is not None
    assert lost.job.plain == []
    seen.finished(lost.job.token, ListReport({"run-1": "lost", "run-2": "succeeded"}, {}))

    again = seen.next_list()
    assert again is not None
    assert (runs_of(again), again.job.plain) == (["run-1"], ["run-1"])
    seen.take_again(seen.lost(again.job.token))
    alone = seen.next_list()
    assert alone is not None
    assert (runs_of(alone), alone.job.plain, alone.is_alone) == (["run-1"], ["run-1"], True)


def test_a_list_that_no_child_has_seen_waits_as_before() -> None:
    seen = collector(runs_max=2)
    seen.add(message("run-1", "run-2", "run-3", handed=b"1"))
    recycled = seen.next_list()
    assert recycled is not None

    seen.put_back(seen.lost(recycled.job.token))

    again = seen.next_list()
    assert again is not None
    assert (runs_of(again), again.job.plain, again.is_alone) == (["run-1", "run-2"], [], False)
    assert again.job.handed == {"run-1": b"1"}


def test_a_release_has_the_tokens_of_what_nobody_had_before_only() -> None:
    seen = collector()
    seen.add(message("run-1", handed=b"1"))
    redelivered = message("run-2", handed=b"2")
    redelivered.handed = None
    seen.add(redelivered)

    both = seen.next_list()

    assert both is not None
    assert runs_of(both) == ["run-1", "run-2"]
    assert both.tokens == ["of run-1"]
