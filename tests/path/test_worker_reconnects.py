"""A worker goes on, or leaves, whatever becomes of its connection to RabbitMQ."""

import time
from contextlib import suppress

import psutil
import pytest

from tests.path.site import Open, Producers, Site, site
from tests.support.cut import line_to
from tests.support.wait import until
from veltrix.dev.children import wait_for
from veltrix.prove.deployment.tcp_proxy import TcpProxy as SilentLine

__all__ = ["site"]

BREAKS = 40
LEAVES_S = 10.0
WORKERS = tuple(f"worker-{number}" for number in range(1, 7))
# How long the workers stand still, twice, and how long they go on in between.
STILL_S = ((11.0, 0.1), (12.0, 0.4), (13.0, 0.2))


def stand_still(seen: Site, *names: str) -> list[psutil.Process]:
    """SIGSTOP to all of these workers; what has to be woken."""
    families = [one for name in names for one in seen.member(name).child.family()]
    for one in families:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    return families


def wake(families: list[psutil.Process]) -> None:
    """SIGCONT to these."""
    for one in families:
        with suppress(psutil.NoSuchProcess):
            one.resume()


def pause(seconds: float) -> None:
    """Let the time go by in which something happens, or does not."""
    wait_for(lambda: False, deadline_s=seconds)


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
                pause(0.05 + 0.007 * number)
                line.break_all()
        sent = len(producers.sent)

        seen.wait_settled(sent, 30)
        seen.check_books(sent)


def test_a_worker_leaves_in_time_though_rabbitmq_says_nothing(site: Open) -> None:
    seen = site(workers=0)
    line = SilentLine(seen.platform.broker_url)
    try:
        seen.start("worker-1", BROKER_URL=line.url)
        seen.platform.wait_ready()
        seen.wait_registered()
        seen.post(range(20))
        seen.wait_settled(20, 20)

        line.fall_silent()
        seen.platform.terminate("worker-1")
        asked = time.monotonic()

        assert seen.platform.wait_ended("worker-1") == 0
        assert time.monotonic() - asked < LEAVES_S
    finally:
        line.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_that_stand_still_while_they_connect_go_on(site: Open) -> None:
    seen = site(workers=len(WORKERS), children=1, HOLD_S=2)

    with Producers(seen.platform.api_url, sizes=(1, 5)) as producers:
        for still_s, between_s in STILL_S:
            # RabbitMQ ends the connections of a worker it missed for 10 s. Then the workers stand
            # still again, each at another moment of connecting anew.
            still = stand_still(seen, *WORKERS)
            pause(still_s)
            wake(still)
            pause(between_s)
            still = []
            for name in WORKERS:
                still += stand_still(seen, name)
                pause(0.07)
            pause(still_s)
            wake(still)
    sent = len(producers.sent)
    seen.wait_settled(sent, 60)

    # Messages that were given back went to whoever was there: each is to be given new ones.
    lists = {name: seen.metric("veltrix_list_runs_count", name) for name in WORKERS}

    def all_go_on() -> bool:
        nonlocal sent
        seen.post(range(10**6 + sent, 10**6 + sent + 60), size=1)
        sent += 60
        return all(seen.metric("veltrix_list_runs_count", name) > lists[name] for name in WORKERS)

    until(all_go_on, 30, "every worker to take a list")
    seen.wait_settled(sent, 30)
    seen.check_books(sent)
