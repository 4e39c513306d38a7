"""When runs stand in line, as the checker sees it from the witness."""

import math
from types import SimpleNamespace
from typing import Any

from veltrix.prove.check.properties_time import line_of
from veltrix.prove.deployment.witness import Move


def case_of(accepted_at: dict[str, float], moves: list[Move]) -> Any:
    return SimpleNamespace(accepted_at=accepted_at, moves=moves)


def move(at: float, run_id: str, state: str) -> Move:
    return Move(0, run_id, 0, "move", "", state, "", "", "", at)


def test_few_runs_are_no_line() -> None:
    case = case_of({f"{n}": 1.0 for n in range(19)}, [])

    assert line_of(case)(2.0) == 2.0


def test_a_line_lasts_until_all_but_a_few_were_taken() -> None:
    case = case_of(
        {f"{n}": 1.0 for n in range(25)},
        [move(2.0 + n / 10, f"{n}", "running") for n in range(10)]
        + [move(5.0, f"{n}", "queued") for n in range(10)]
        + [move(6.0, f"{n}", "running") for n in range(20)],
    )
    line = line_of(case)

    assert line(0.5) == 0.5
    assert line(1.5) == 2.5
    assert line(2.6) == 2.6
    assert line(5.5) == 6.0


def test_a_line_without_an_end_has_none() -> None:
    assert line_of(case_of({f"{n}": 1.0 for n in range(25)}, []))(2.0) == math.inf
