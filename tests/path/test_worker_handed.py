"""Runs go from the api to a worker as claimed, and no worker that dies keeps them from the next."""

from tests.path.site import Open, Site, site
from tests.support.cut import line_to
from tests.support.wait import until

__all__ = ["site"]

BEGUN = "veltrix_runs_begun_total"


def learn(seen: Site, first: int = 0) -> int:
    """Send until children begin runs without a claim; the next number."""
    numbers = iter(range(first, 10_000, 20))
    sent = first

    def has_begun() -> bool:
        nonlocal sent
        sent = next(numbers) + 20
        seen.post(range(sent - 20, sent))
        seen.wait_settled(sent, 20.0)
        return seen.metric(BEGUN, "worker-1") > 0

    until(has_begun, 30.0, "a run that is begun as claimed")
    return sent


def test_most_runs_are_begun_by_their_messages_and_each_once(site: Open) -> None:
    seen = site(workers=1)
    sent = learn(seen)
    before = seen.metric(BEGUN, "worker-1")

    for _ in range(20):
        seen.post(range(sent, sent + 5))
        sent += 5
        seen.wait_settled(sent, 20.0)

    assert seen.metric(BEGUN, "worker-1") - before >= 50
    seen.check_ran_once(sent)
    seen.check_books(sent)
    told = seen.ask(
        "select bool_and(worker_id like 'worker-1@%%' and delivery_id is not null and attempt = 1"
        " and claimed_at >= started_at and claimed_at <= settled_at) from runs"
    )
    assert told == [(True,)]


def test_what_waits_in_a_worker_whose_connection_ends_goes_on_at_once(site: Open) -> None:
    """RabbitMQ gives it to somebody again, who may not begin it by that message."""
    seen = site(workers=0, HOLD_S=30, WORKER_CHILDREN=1)
    with line_to(seen.platform.broker_url) as line:
        seen.start_ready("worker-1", BROKER_URL=line.url)
        seen.wait_registered()
        sent = learn(seen)
        line.break_all()
        seen.post(range(sent, sent + 40), type_="effects.slow")
        until(lambda: len(seen.marks()) > sent + 3, 20.0, "some slow steps")
        line.break_all()

        seen.wait_settled(sent + 40, 15.0)
    seen.check_books(sent + 40)


def test_what_a_killed_worker_had_comes_back_after_its_hold(site: Open) -> None:
    seen = site(workers=1, HOLD_S=4, WORKER_CHILDREN=1)
    sent = learn(seen)
    seen.post(range(sent, sent + 60), type_="effects.slow")
    until(lambda: len(seen.marks()) > sent + 3, 20.0, "some slow steps")
    seen.platform.kill("worker-1")
    seen.start("worker-2")

    seen.wait_settled(sent + 60, 30.0)
    seen.check_books(sent + 60)
    marks = seen.marks()
    assert len(marks) == sent + 60
    assert max(marks.values()) <= 2


def test_a_worker_that_leaves_hands_back_what_it_has_not_begun(site: Open) -> None:
    seen = site(workers=1, HOLD_S=60, WORKER_CHILDREN=1)
    sent = learn(seen)
    seen.post(range(sent, sent + 60), type_="effects.slow")
    until(lambda: len(seen.marks()) > sent + 3, 20.0, "some slow steps")
    seen.start_ready("worker-2")
    seen.platform.terminate("worker-1")

    seen.wait_settled(sent + 60, 20.0)
    seen.check_ran_once(sent + 60)
    seen.check_books(sent + 60)
