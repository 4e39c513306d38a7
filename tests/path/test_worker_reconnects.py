"""A worker whose connection to RabbitMQ breaks again and again goes on working."""

import pytest

from app.dev.children import wait_for
from tests.path.site import Open, Producers, site
from tests.support.cut import line_to
from tests.support.wait import until

__all__ = ["site"]

BREAKS = 40


@pytest.mark.slow
def test_a_connection_that_breaks_at_any_moment_stops_no_worker(site: Open) -> None:
    seen = site(workers=0, HOLD_S=2)
    with line_to(seen.platform.broker_url) as line:
        seen.start("worker-1", BROKER_URL=line.url)
        seen.platform.wait_ready()
        seen.wait_registered()

        with Producers(seen.platform.api_url, sizes=(1, 5, 20)) as producers:
            for number in range(BREAKS):
                until(lambda: seen.logged("worker.started", "worker-1") == 1, what="the worker")
                # Not at a round time after it was connected again: each break meets another moment.
                wait_for(lambda: False, deadline_s=0.05 + 0.007 * number)
                line.break_all()
        sent = len(producers.sent)

        seen.wait_settled(sent, 30)
        seen.check_books(sent)
