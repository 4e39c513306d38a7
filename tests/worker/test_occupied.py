"""What a run costs a child: the mean of what was measured lately."""

from veltrix.worker.occupied import Occupied


def test_nobody_has_measured_what_was_never_run() -> None:
    assert Occupied().of("fulfil") is None


def test_a_long_list_counts_more_than_a_short_one() -> None:
    seen = Occupied()

    seen.note({"fulfil": (0.25, 250)})
    seen.note({"fulfil": (0.05, 1)})

    cost_s = seen.of("fulfil")
    assert cost_s is not None
    assert 0.001 < cost_s < 0.0015, "one run that was held up is no reason for short lists"


def test_a_workflow_that_became_slow_is_known_to_be_from_its_next_list_on() -> None:
    seen = Occupied()

    seen.note({"fulfil": (0.025, 250), "bill": (0.001, 1)})
    seen.note({"fulfil": (12.5, 250)})

    assert seen.means() == {"fulfil": (0.025 * 0.8 + 12.5) / 450, "bill": 0.001}


def test_a_workflow_that_became_fast_is_forgiven() -> None:
    seen = Occupied()
    seen.note({"fulfil": (0.05, 1)})

    for _ in range(20):
        seen.note({"fulfil": (0.0001, 1)})

    assert seen.means()["fulfil"] < 0.0005
