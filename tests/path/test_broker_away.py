"""RabbitMQ away or blocked: accept goes on at its usual latency, what is due goes out later."""

import os
import statistics
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.path.site import Open, Producers, Site, connect, event_of, post, site
from tests.support.cut import line_to
from tests.support.wait import until
from veltrix.dev.servers.ports import LOOPBACK
from veltrix.dev.servers.rabbitmq import RabbitMQ

__all__ = ["site"]

# Tens of times the usual; a wait for RabbitMQ, with its time-outs of seconds, would be far above.
LATENCY_S_MAX = 0.5


def post_one_by_one(seen: Site, numbers: range) -> None:
    """Each is answered 202, and a connection that waits for nothing takes milliseconds."""
    took = []
    with closing(connect(seen.platform.api_url)) as connection:
        for number in numbers:
            began = time.monotonic()
            status, _ = post(connection, [event_of(number)])
            took.append(time.monotonic() - began)
            assert status == 202
    assert statistics.median(took) < LATENCY_S_MAX / 4, statistics.median(took)
    assert sorted(took)[int(len(took) * 0.98)] < LATENCY_S_MAX, sorted(took)[-5:]


def test_rabbitmq_absent_at_the_start_or_lost_later_is_missed_by_no_producer_and_no_run(
    site: Open,
) -> None:
    seen = site(apis=0, relays=0, HOLD_S=2, QUEUE_BOUND_S=0.5, BROKER_BACKOFF_S_MAX=1)
    with line_to(seen.platform.broker_url) as line:
        line.take_down()
        seen.start("api-1", BROKER_URL=line.url)
        seen.start("relay-1", BROKER_URL=line.url)
        until(lambda: seen.logged("broker.lost", "relay-1"), what="the relay to miss RabbitMQ")
        until(lambda: seen.logged("api.started", "api-1"), what="the api")

        post_one_by_one(seen, range(200))

        assert seen.states() == {"queued": 200}
        line.bring_up()
        seen.wait_settled(200, 20)

        with Producers(seen.platform.api_url, sizes=(1, 20), first=200) as producers:
            until(lambda: len(producers.receipts) > 500, what="some load")
            line.take_down()
            until(lambda: len(producers.receipts) > 1_500, what="more load")
        sent = 200 + len(producers.sent)
        post_one_by_one(seen, range(sent, sent + 200))

        assert set(producers.statuses) == {202}
        assert seen.open_runs() >= 200
        line.bring_up()
        seen.wait_settled(sent + 200, 20)
        seen.check_ran_once(sent + 200)
        seen.check_books(sent + 200)


def set_memory_limit(node: RabbitMQ, part: str) -> None:
    """Publishers are blocked while RabbitMQ uses more than this part of the machine's memory."""
    scripts = Path("/usr/lib/rabbitmq/bin")
    ports = (node.folder / "ports.json").read_text()
    epmd = ports.partition('"epmd":')[2].split(",")[0].strip(" }\n")
    environment = {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "HOME": str(node.folder),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": epmd,
        "RABBITMQ_CONF_ENV_FILE": str(node.folder / "env.conf"),
    }
    told = subprocess.run(
        [scripts / "rabbitmqctl", "-n", "veltrix@localhost", "set_vm_memory_high_watermark", part],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.slow
def test_a_memory_alarm_blocks_publishing_but_not_accept_and_nothing_is_lost(
    site: Open, own_rabbitmq: RabbitMQ
) -> None:
    seen = site(rabbitmq=own_rabbitmq, vhost="/", HOLD_S=2, QUEUE_BOUND_S=0.5)
    seen.post(range(100))
    seen.wait_settled(100, 10)

    set_memory_limit(own_rabbitmq, "0.000001")
    until(lambda: seen.manage("GET", "nodes")[0].get("mem_alarm"), what="the alarm")
    post_one_by_one(seen, range(100, 300))
    seen.post(range(300, 2_300))

    assert seen.open_runs() > 1_900
    set_memory_limit(own_rabbitmq, "0.4")
    seen.wait_settled(2_300, 40)
    seen.check_ran_once(2_300)
    seen.check_books(2_300)
