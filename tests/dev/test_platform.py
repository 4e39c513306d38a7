"""The platform of a test is made of real processes that can be killed and started again."""

import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable

import pytest

from tests.support.processes import is_alive
from tests.support.services import Broker
from veltrix.dev.platform import Platform, command


def get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        status: int = response.status
        return status


def test_it_is_ready_on_this_tests_servers_and_nothing_is_left_after_closing(
    platform: Callable[..., Platform], database_url: str, broker: Broker
) -> None:
    p = platform(workers=2)

    assert sorted(p.processes) == ["api-1", "relay-1", "worker-1", "worker-2"]
    assert (p.database_url, p.broker_url) == (database_url, broker.url)
    assert [get(f"{one.url}/readyz") for one in p.processes.values()] == [200] * 4
    assert get(f"{p.api_url}/metrics") == 200

    argv = [*command("api")[:-1], "balance", "--json"]
    beside = subprocess.run(argv, env=p.env, capture_output=True, check=True)

    assert json.loads(beside.stdout)["unaccounted"] == 0, "a command line finds its database"

    family = [member.pid for one in p.processes.values() for member in one.child.family()]
    assert len(family) > len(p.processes)

    p.close(grace_s=0)

    assert [pid for pid in family if is_alive(pid)] == []


@pytest.mark.slow
def test_a_killed_process_can_be_started_again_at_its_address(
    platform: Callable[..., Platform],
) -> None:
    p = platform()
    before = p.processes["worker-1"]

    p.kill("worker-1")

    assert p.wait_ended("worker-1") == -signal.SIGKILL
    assert p.processes["relay-1"].is_ready

    after = p.start("worker-1", "worker")
    p.wait_ready("worker-1")

    assert after.pid != before.pid
    assert after.url == before.url


def test_a_terminated_process_ends_by_itself(platform: Callable[..., Platform]) -> None:
    p = platform()

    for name in p.processes:
        p.terminate(name)

    assert {name: p.wait_ended(name) for name in p.processes} == dict.fromkeys(p.processes, 0)
