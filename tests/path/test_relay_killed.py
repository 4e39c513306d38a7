"""Relay, before or after a confirm: what it had in hand comes due again, and settles once."""

import pytest

from tests.path.site import Open, site
from tests.support.wait import until

__all__ = ["site"]


def test_a_backlog_survives_relays_that_die_in_it_and_each_run_settles_once(site: Open) -> None:
    seen = site(apis=0, relays=0, HOLD_S=2, QUEUE_BOUND_S=0.5)
    seen.start_ready("api-1", HINTS_MAX="0")
    seen.post(range(2_000), size=500)
    seen.post(range(2_000, 2_150), type_="effects.slow")
    seen.platform.kill("api-1")
    overdue = "select count(*) from runs where due_at <= now()"
    until(lambda: seen.ask(overdue) == [(2_150,)], what="the backlog to be due")
    relayed = "veltrix_runs_relayed_total"

    seen.start_ready("relay-1")
    until(lambda: seen.metric(relayed, "relay-1") > 0, what="it to hand over some runs")
    seen.platform.kill("relay-1")
    assert seen.open_runs(), "it died with a backlog due"
    seen.start("relay-1")
    seen.start_ready("relay-2")
    until(lambda: seen.metric(relayed, "relay-2") > 0, what="it to hand over some runs")
    seen.platform.kill("relay-1")
    assert seen.open_runs(), "it died with a backlog due, beside another"

    seen.wait_settled(2_150, 30)
    seen.check_ran_once(2_150)
    seen.check_books(2_150)


@pytest.mark.slow
def test_two_of_everything_start_one_run_per_event_though_both_apis_get_it(site: Open) -> None:
    seen = site(apis=2, relays=2, workers=2, children=1, HOLD_S=2, QUEUE_BOUND_S=0.5)
    first, second = seen.member("api-1").url, seen.member("api-2").url

    receipts = {item["id"]: item for item in seen.post(range(3_000), url=first, size=250)}
    both = seen.post(range(2_000, 5_000), url=second, size=250)

    assert [item["duplicate"] for item in both] == [True] * 1_000 + [False] * 2_000
    assert all(item["runs"] == receipts[item["id"]]["runs"] for item in both[:1_000])
    seen.wait_settled(5_000, 30)
    seen.check_ran_once(5_000)
    seen.check_books(5_000)
