"""What operators see of a worker at work: a message is a Celery task with the workflow's name."""

from collections import Counter
from typing import Any

import pytest
from celery import Celery

from tests.path.seen import Scene
from tests.support.wait import until
from veltrix.broker.celery_app import make_celery
from veltrix.settings.fields import Settings


def test_a_message_being_worked_on_is_in_inspect_active(steady: Scene) -> None:
    seen = steady
    run_ids = seen.add([["pause", 2.5]], 2)
    until(lambda: seen.at(1, run_ids), what="a run in hand")
    celery = make_celery(Settings(broker_url=seen.platform.broker_url), ["act"], ["path"])

    active = until(lambda: inspected(celery, "active"), what="an answer")

    assert active.keys() == {"worker-1@localhost"}
    (task, *_) = active["worker-1@localhost"]
    assert task["name"] == "act"
    assert task["id"] in run_ids
    assert task["worker_pid"] in {line.pid for line in seen.at(1, run_ids)}
    queues = inspected(celery, "active_queues")["worker-1@localhost"]
    assert {queue["name"] for queue in queues} >= {"path", "flood", "beside"}
    assert seen.wait_settled(run_ids) == Counter(succeeded=2)
    until(
        lambda: (
            inspected(celery, "active")
            == inspected(celery, "reserved")
            == {"worker-1@localhost": []}
        ),
        what="nothing to be active or reserved any more",
    )
    celery.close()


def inspected(celery: Any, what: str) -> Any:
    """The workers' answers."""
    return getattr(celery.control.inspect(timeout=1.0, limit=1), what)()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("pool_shrink", {"n": 9}),
        ("pool_grow", {"n": 9}),
        ("cancel_consumer", {"queue": "path"}),
        ("rate_limit", {"task_name": "act", "rate_limit": "0/m"}),
        ("shutdown", {}),
        ("disable_events", {}),
    ],
)
def test_who_has_rabbitmqs_password_may_ask_and_not_tell(
    steady: Scene, command: str, arguments: dict[str, Any]
) -> None:
    seen = steady
    celery = Celery(broker=seen.platform.broker_url)
    before = inspected(celery, "stats")["worker-1@localhost"]["pool"]["max-concurrency"]

    celery.control.broadcast(command, arguments=arguments, reply=True, timeout=0.5)

    assert seen.wait_settled(seen.add([["note"]], 5)) == Counter(succeeded=5)
    after = inspected(celery, "stats")["worker-1@localhost"]["pool"]["max-concurrency"]
    assert after == before
    celery.close()
