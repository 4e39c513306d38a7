"""A queue that RabbitMQ cannot serve any more, or a connection that it ends: everybody goes on."""

from contextlib import suppress
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from tests.path.site import Open, Producers, Site, site
from tests.path.test_worker_refused import ready
from tests.support.broken_queue import break_queue, silent
from tests.support.services import Broker
from tests.support.wait import until
from veltrix.prove.faults.broker import rabbitmqctl

__all__ = ["site"]


@pytest.mark.slow
def test_runs_of_a_queue_that_broke_under_load_are_done(site: Open, broker: Broker) -> None:
    seen = site(QUEUE_TYPE="quorum", HOLD_S=15)  # when those that were handed as claimed are due
    with Producers(seen.platform.api_url, sizes=(1,)) as producers:
        until(lambda: len(producers.receipts) > 200, 20, "200 receipts")
        break_queue(broker, "fast")
        until(lambda: seen.logged("queue.renewed", "relay-1"), 40, "the queue to be renewed")
        renewed_after = len(producers.receipts)
        until(lambda: len(producers.receipts) > renewed_after + 50, 20, "50 receipts more")
    sent = len(producers.sent)

    assert set(producers.statuses) == {202}
    seen.wait_settled(sent, 30)
    seen.check_books(sent)
    assert seen.metric("veltrix_queues_renewed_total", "relay-1") == 1


def troubles(seen: Site) -> dict[str, str]:
    """What the worker's `/readyz` says."""
    _, told = ready(seen.member("worker-1").url)
    return {one["name"]: one["detail"] for one in told["troubles"]}


def without_relay(seen: Site) -> None:
    """Some runs are done, and nobody mends queues from now on."""
    seen.post(range(20))
    seen.wait_settled(20, 20)
    seen.platform.terminate("relay-1")
    seen.platform.wait_ended("relay-1")


def reconnects(seen: Site) -> int:
    """How often the worker lost its connection."""
    return seen.logged("Connection to broker lost", "worker-1")


def test_a_connection_that_ends_under_load_is_made_again_once(site: Open) -> None:
    seen = site(HOLD_S=60, children=4)
    seen.post(range(300), type_="effects.slow")
    until(lambda: seen.states()["succeeded"] > 20, 20, "some runs")

    def own() -> list[str]:
        found = seen.manage("GET", "vhosts/{vhost}/connections")
        name = "user_provided_name"
        return [one["name"] for one in found if one.get(name, "").startswith("celery of worker-1")]

    for name in until(own, 10, "the worker's connections"):
        with suppress(HTTPError):  # the worker ends one itself when it has lost the other
            seen.manage("DELETE", f"connections/{quote(name, safe='')}")

    seen.wait_settled(300, 30)
    assert 1 <= reconnects(seen) <= 2, "one for work, one for events"
    until(lambda: not troubles(seen), 5, "the worker to be well")
    seen.check_books(300)


def test_a_broken_queue_does_not_stop_the_others_of_its_worker(site: Open, broker: Broker) -> None:
    seen = site(QUEUE_TYPE="quorum", HOLD_S=60)
    without_relay(seen)
    break_queue(broker, "fast")

    until(lambda: set(troubles(seen)) == {"broker_queues"}, 30, "the queue to be set aside")
    seen.post(range(20, 23), type_="effects.slow")
    seen.wait_settled(23, 20)
    assert "(fast: RabbitMQ ends" in troubles(seen)["broker_queues"]

    seen.start_ready("relay-1")
    seen.post(range(23, 40))

    seen.wait_settled(40, 60)
    until(lambda: not troubles(seen), 30, "the worker to be well")
    seen.check_books(40)
    assert reconnects(seen) <= 3


@pytest.mark.slow
def test_a_queue_that_says_nothing_beside_a_broken_one_stops_no_third(
    site: Open, broker: Broker
) -> None:
    seen = site(
        QUEUE_TYPE="quorum", HOLD_S=60, workflows="tests.path.effects_flows,tests.path.third_flows"
    )
    without_relay(seen)
    with silent(broker, "slow"):
        break_queue(broker, "fast")
        until(
            lambda: "fast" in (told := troubles(seen).get("broker_queues", "")) and "slow" in told,
            90,
            "both to be set aside",
        )
        seen.post(range(20, 23), type_="effects.third")
        seen.wait_settled(23, 20)
    until(lambda: "slow" not in troubles(seen)["broker_queues"], 90, "one to be taken up again")
    assert "fast" in troubles(seen)["broker_queues"]


@pytest.mark.slow
def test_a_question_that_cannot_be_asked_ends_no_connection(site: Open, broker: Broker) -> None:
    seen = site(QUEUE_TYPE="quorum", HOLD_S=60)
    without_relay(seen)
    break_queue(broker, "fast")
    until(lambda: set(troubles(seen)) == {"broker_queues"}, 30, "the queue to be set aside")
    before = reconnects(seen)

    rabbitmqctl(broker.node, "set_vhost_limits", "-p", broker.vhost, '{"max-connections": 1}')
    until(lambda: _refusals(broker), 40, "a question to be refused")
    refused = _refusals(broker)
    until(lambda: _refusals(broker) > refused, 60, "the next, too")
    seen.post(range(20, 23), type_="effects.slow")

    seen.wait_settled(23, 20)
    assert reconnects(seen) == before


def _refusals(broker: Broker) -> int:
    log = (broker.node.folder / "log").read_text(errors="replace")
    return log.count(f"access to vhost '{broker.vhost}' refused")
