"""Jobs that go before lists."""

from veltrix.worker.jobs import LetterJob, RegisterJob
from veltrix.worker.parent.urgent import Urgent


def taken(urgent: Urgent) -> list[str]:
    found = []
    while (job := urgent.take(0.0)) is not None:
        found.append(type(job).__name__)
    return found


def test_a_new_child_gives_some_child_a_job_so_that_its_worker_is_heard_of() -> None:
    urgent = Urgent([])
    urgent.meet([1, 2])
    assert taken(urgent) == []
    urgent.meet([2])
    assert taken(urgent) == []
    urgent.meet([2, 3])
    urgent.meet([2, 3])
    urgent.meet([4, 3])

    assert taken(urgent) == ["RegisterJob"]


def test_who_registers_anyway_does_so_once() -> None:
    urgent = Urgent([RegisterJob(), LetterJob([])])
    urgent.meet([1])
    urgent.meet([2])

    assert taken(urgent) == ["RegisterJob", "LetterJob"]
