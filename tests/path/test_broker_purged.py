"""Broker loses messages: the relay notices, and the runs they named are due at once.

The hold is a minute: within the times of these tests no run comes due by itself.
"""

import pytest

from tests.path.site import Open, Producers, Site, site
from tests.support.wait import until
from veltrix.dev.servers.rabbitmq import RabbitMQ

__all__ = ["site"]

# A message names few runs, and the queue takes all of them though no worker has been measured.
SETTINGS = {"HOLD_S": 60, "LIST_RUNS_MAX": 2_000, "LIST_RUNS_UNMEASURED": 2_000}


BOTH = pytest.mark.parametrize("type_", ["quorum", "classic"])


def fill(seen: Site) -> None:
    """2,000 runs, all handed to the broker and none claimed."""
    seen.platform.kill("worker-1")
    until(lambda: seen.metric("veltrix_broker_up", "api-1") == 1, what="the api's connection")
    seen.post([0])
    until(lambda: "fast" in seen.queues(), what="the queue")
    seen.post(range(1, 2_000))
    handed = "select count(*) from runs where state = 'queued' and due_at > now()"
    relayed = ("veltrix_runs_relayed_total", "api-1", "relay-1")
    until(lambda: seen.metric(*relayed) == 2_000, 20, "all runs to be handed over")

    assert seen.ask(handed) == [(2_000,)]


def finish(seen: Site) -> None:
    """All of them settle within 30 s, once."""
    seen.start("worker-1")
    seen.wait_settled(2_000, 30)
    seen.check_ran_once(2_000)
    seen.check_books(2_000)


@BOTH
def test_2000_runs_survive_a_purge_of_every_queue_and_run_within_30_s(
    site: Open, type_: str
) -> None:
    seen = site(QUEUE_TYPE=type_, **SETTINGS)
    fill(seen)

    seen.purge_all()

    finish(seen)


@pytest.mark.parametrize("death", ["killed", "stopped"])
def test_2000_runs_survive_a_node_of_classic_queues_and_run_within_30_s_of_its_return(
    site: Open, own_rabbitmq: RabbitMQ, death: str
) -> None:
    """It comes back with the queues and without their messages."""
    seen = site(rabbitmq=own_rabbitmq, vhost="/", QUEUE_TYPE="classic", **SETTINGS)
    fill(seen)

    own_rabbitmq.kill() if death == "killed" else own_rabbitmq.stop()
    own_rabbitmq.start()

    finish(seen)


@pytest.mark.slow
def test_2000_runs_survive_a_wiped_broker_and_run_within_30_s_of_its_return(
    site: Open, own_rabbitmq: RabbitMQ
) -> None:
    seen = site(rabbitmq=own_rabbitmq, vhost="/", **SETTINGS)
    fill(seen)

    own_rabbitmq.wipe()
    own_rabbitmq.start()

    finish(seen)


@BOTH
@pytest.mark.slow
def test_a_queue_deleted_under_load_is_declared_again_and_its_runs_are_due_at_once(
    site: Open, type_: str
) -> None:
    seen = site(QUEUE_TYPE=type_, HOLD_S=60)
    with Producers(seen.platform.api_url, sizes=(1, 20, 20)) as producers:
        until(lambda: len(producers.receipts) > 500, 20, "500 receipts")
        seen.manage("DELETE", "queues/{vhost}/fast")
        until(lambda: len(producers.receipts) > 3_000, 20, "3,000 receipts")

    sent = len(producers.sent)

    assert set(producers.statuses) == {202}
    seen.wait_settled(sent, 30)
    assert "fast" in seen.queues()
    seen.check_ran_once(sent)
    seen.check_books(sent)


@pytest.mark.parametrize(("old", "new"), [("quorum", "classic"), ("classic", "quorum")])
def test_queues_change_their_type_under_load_and_each_run_runs_once(
    site: Open, old: str, new: str
) -> None:
    """The relay is the first process to have the new setting; the others use what is there."""
    seen = site(QUEUE_TYPE=old, HOLD_S=60)

    def types() -> set[str]:
        queues = seen.manage("GET", "queues/{vhost}?columns=name,type")
        return {queue["type"] for queue in queues if queue["name"] in {"fast", "slow"}}

    with Producers(seen.platform.api_url, sizes=(1, 20)) as producers:
        until(lambda: len(producers.receipts) > 500, 20, "500 receipts")
        assert types() == {old}
        seen.platform.kill("relay-1")
        seen.start_ready("relay-1", QUEUE_TYPE=new)
        until(lambda: seen.metric("veltrix_queues_changed_total", "relay-1") == 2, 30, "the change")
        until(lambda: len(producers.receipts) > 2_000, 20, "more receipts")

    sent = len(producers.sent)
    assert types() == {new}
    seen.wait_settled(sent, 30)
    seen.check_ran_once(sent)
    seen.check_books(sent)
