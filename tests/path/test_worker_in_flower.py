"""What operators see of a worker at work: a message is a Celery task with the workflow's name."""

from collections import Counter
from typing import Any

from app.broker.celery_app import make_celery
from app.settings import Settings
from tests.path.seen import Scene
from tests.support.wait import until


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
