"""Whatever is sent, readers raise what they say they raise (`tests.domain.fuzz`, for longer)."""

import pytest

from tests.domain.fuzz import fuzz


def test_two_seconds_of_mutations_find_nothing() -> None:
    assert fuzz(2.0, 1) > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_a_minute_of_mutations_finds_nothing(seed: int) -> None:
    assert fuzz(10.0, seed) > 1_000
