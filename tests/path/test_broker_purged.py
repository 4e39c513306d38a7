"""Broker loses messages: the relay notices, and the runs they named are due at once.

Those that were handed over as claimed are due when their hold is over, since a worker may have
them. Where none are, the hold is a minute: within the times of these tests no run comes due by
itself.
"""

from typing import Any

import pytest

from tests.path.site import Open, Producers, Site, site
from tests.support.wait import until
from veltrix.dev.servers.rabbitmq import RabbitMQ

__all__ = ["site"]

# A message names few runs, and the queue takes all of them though no worker has been measured.
SETTINGS = {"LIST_RUNS_MAX": 2_000, "LIST_RUNS_UNMEASURED": 2_000}
UNCLAIMED: dict[str, Any] = SETTINGS | {"HOLD_S": 60, "HANDED_BYTES_MAX": 0}
CLAIMED: dict[str, Any] = SETTINGS | {"HOLD_S": 15}

BOTH = pytest.mark.parametrize("type_", ["quorum", "classic"])
HANDED = pytest.mark.parametrize("settings", [UNCLAIMED, CLAIMED], ids=["unclaimed", "claimed"])


def fill(seen: Site, settings: dict[str, Any]) -> None:
    """2,000 runs, all handed to the broker and none claimed by a worker."""
    seen.platform.kill("worker-1")
    until(lambda: seen.metric("veltrix_broker_up", "api-1") == 1, what="the api's connection")
    sent = iter(range(2_000))
    seen.post([next(sent)])
    until(lambda: "fast" in seen.queues(), what="the queue")
    if settings is CLAIMED:
        until(lambda: seen.post([next(sent)]) and _has_claimed(seen), 20, "a run handed as claimed")
    seen.post(list(sent))
    handed = "select count(*) from runs where state = 'queued' and due_at > now()"
    relayed = ("veltrix_runs_relayed_total", "api-1", "relay-1")
    until(lambda: seen.metric(*relayed) == 2_000, 20, "all runs to be handed over")

    assert seen.ask(handed) == [(2_000,)]
    assert _has_claimed(seen) == (settings is CLAIMED)


def _has_claimed(seen: Site) -> bool:
    return bool(seen.ask("select 1 from runs where lease_token is not null limit 1"))


def finish(seen: Site) -> None:
    """All of them settle within 30 s, once."""
    seen.start("worker-1")
    seen.wait_settled(2_000, 30)
    seen.check_ran_once(2_000)
    seen.check_books(2_000)


@BOTH
@HANDED
def test_2000_runs_survive_a_purge_of_every_queue_and_run_within_30_s(
    site: Open, type_: str, settings: dict[str, Any]
) -> None:
    seen = site(QUEUE_TYPE=type_, **settings)
    fill(seen, settings)

    seen.purge_all()

    finish(seen)


@pytest.mark.parametrize("death", ["killed", "stopped"])
@HANDED
def test_2000_runs_survive_a_node_of_classic_queues_and_run_within_30_s_of_its_return(
    site: Open, own_rabbitmq: RabbitMQ, death: str, settings: dict[str, Any]
) -> None:
    """It comes back with the queues and without their messages."""
    seen = site(rabbitmq=own_rabbitmq, vhost="/", QUEUE_TYPE="classic", **settings)
    fill(seen, settings)

    own_rabbitmq.kill() if death == "killed" else own_rabbitmq.stop()
    own_rabbitmq.start()

    finish(seen)


@HANDED
@pytest.mark.slow
def test_2000_runs_survive_a_wiped_broker_and_run_within_30_s_of_its_return(
    site: Open, own_rabbitmq: RabbitMQ, settings: dict[str, Any]
) -> None:
    seen = site(rabbitmq=own_rabbitmq, vhost="/", **settings)
    fill(seen, settings)

    own_rabbitmq.wipe()
    own_rabbitmq.start()

    finish(seen)


@BOTH
@HANDED
@pytest.mark.slow
def test_a_queue_deleted_under_load_is_declared_again_and_all_of_its_runs_run(
    site: Open, type_: str, settings: dict[str, Any]
) -> None:
    seen = site(QUEUE_TYPE=type_, **settings)
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
    """The relay is the first process to have the new setting; the others use what is there.

    What was handed over as claimed in the moment of a deletion is due at the end of its hold.
    """
    seen = site(QUEUE_TYPE=old, HOLD_S=15)

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
