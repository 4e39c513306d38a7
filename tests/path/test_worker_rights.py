"""A user of RabbitMQ who may read and write, and not configure, is as good as any."""

from collections import Counter

from tests.path.seen import Start
from tests.support.limited_user import limited_user
from tests.support.wait import until


def test_a_worker_without_the_configure_right_works_with_what_is_there(scene: Start) -> None:
    seen = scene(workers=1, children=1)
    seen.platform.terminate("worker-1")
    seen.platform.wait_ended("worker-1")
    url = limited_user(seen.platform.management_url, seen.platform.broker_url, "plain")
    seen.platform.start("worker-2", "worker", {"VELTRIX_BROKER_URL": url})
    seen.platform.wait_ready("worker-2")
    run_ids = seen.add([["note"]], 20)

    assert seen.wait_settled(run_ids) == Counter(succeeded=20)
    assert not seen.log_lines("Traceback", "worker-2")
    assert len(seen.log_lines("broker.refused", "worker-2")) <= 1


def test_a_queue_that_may_not_be_declared_is_said_and_taken_up_when_it_is_there(
    scene: Start,
) -> None:
    seen = scene(workers=0, children=1, relays=0)
    url = limited_user(seen.platform.management_url, seen.platform.broker_url, "early")
    worker = seen.platform.start("worker-1", "worker", {"VELTRIX_BROKER_URL": url})
    until(lambda: seen.log_lines("broker.refused"), 20, "the sentence")
    assert not worker.is_ready
    assert not seen.log_lines("Traceback")

    seen.wait_registered()
    seen.platform.start("relay-1", "relay", {})  # declares every queue that has subscriptions
    run_ids = seen.add([["note"]], 20)
    assert seen.wait_settled(run_ids, 40.0) == Counter(succeeded=20)
