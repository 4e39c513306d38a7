"""A slow queue never fills with copies of itself: a run is handed over once, as a rule."""

import pytest

from tests.path.site import Open, Site, site

__all__ = ["site"]


def check_sparing(seen: Site, runs: int, deadline_s: float) -> None:
    """That many 50 ms runs on two children are named 1.1 times each at most, on average."""
    seen.post(range(runs), type_="effects.slow")

    seen.wait_settled(runs, deadline_s)
    named = seen.metric("veltrix_runs_relayed_total", "api-1", "relay-1")
    assert runs <= named <= 1.1 * runs
    seen.check_ran_once(runs)
    seen.check_books(runs)


@pytest.mark.slow
def test_slow_runs_that_wait_for_several_holds_are_handed_over_once(site: Open) -> None:
    seen = site(children=2, HOLD_S=2, QUEUE_BOUND_S=0.5)

    check_sparing(seen, 200, 20)


@pytest.mark.slow
def test_2000_runs_of_50_ms_on_two_children_are_named_at_most_1_1_times_each(site: Open) -> None:
    seen = site(children=2)

    check_sparing(seen, 2_000, 100)
