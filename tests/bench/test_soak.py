"""A soak says of each process whether it grew."""

from bench.soak import MIB, _figures
from bench.usage import Held


def verdicts(*, mib: list[float], files: list[int]) -> dict[str, bool]:
    """Of a process that held this in the quarters of a soak, beside one that never changes."""
    samples = [
        (float(at), {"flat 1": Held(50 * MIB, 9), "relay 2": Held(int(held * MIB), opened)})
        for at, (held, opened) in enumerate(
            pair for quarter in zip(mib, files, strict=True) for pair in [quarter] * 10
        )
    ]
    return {str(row["process"]): bool(row["is flat"]) for row in _figures(samples)}


def test_a_process_that_grows_after_it_is_warm_is_not_flat() -> None:
    assert verdicts(mib=[20, 60, 63, 66], files=[5] * 4) == {"flat 1": True, "relay 2": False}
    assert verdicts(mib=[60] * 4, files=[5, 20, 25, 30]) == {"flat 1": True, "relay 2": False}


def test_what_is_filled_in_the_first_quarter_is_no_growth() -> None:
    assert verdicts(mib=[20, 60, 60, 62], files=[5, 20, 20, 21]) == {
        "flat 1": True,
        "relay 2": True,
    }


def test_a_process_that_ended_was_not_flat_unless_it_is_a_helper_of_rabbitmq() -> None:
    there = {"api 1": Held(1, 1)}
    more = there | {"relay 2": Held(1, 1), "RabbitMQ 3": Held(1, 1)}
    figures = _figures([(0.0, more), (1.0, more), (2.0, there), (3.0, there)])

    assert {row["process"]: row["is flat"] for row in figures} == {"api 1": True, "relay 2": False}
