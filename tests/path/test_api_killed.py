"""Api, before or after the commit: what was answered is durable, the rest may be sent again."""

from contextlib import closing

import pytest

from tests.path.site import Item, Open, Producers, Site, connect, post, site
from tests.support.wait import until

__all__ = ["site"]


def send_again(seen: Site, events: list[Item]) -> dict[str, Item]:
    """What the restarted api answers for each of these events."""
    receipts: dict[str, Item] = {}
    with closing(connect(seen.platform.api_url)) as connection:
        for first in range(0, len(events), 200):
            status, items = post(connection, events[first : first + 200])
            assert status == 202, items
            receipts.update({item["id"]: item for item in items})
    return receipts


def runs_of(receipt: Item) -> list[str]:
    """The runs a receipt names."""
    return [run["id"] for run in receipt["runs"]]


def test_what_a_killed_api_answered_is_kept_and_what_it_did_not_may_be_sent_again(
    site: Open,
) -> None:
    seen = site(HOLD_S=2, QUEUE_BOUND_S=0.5)
    with Producers(seen.platform.api_url, sizes=(1, 1, 1, 40, 100)) as producers:
        until(lambda: len(producers.receipts) > 2_000, 30, "2,000 receipts")
        seen.platform.kill("api-1")
    # Its servers finish what it had asked of them: a commit may come after its death.
    of_it = "select count(*) from pg_stat_activity where application_name ~ 'accept'"
    until(lambda: seen.ask(of_it) == [(0,)], what="its sessions to end")
    answered, unanswered = dict(producers.receipts), producers.unanswered
    contents, run_ids = seen.contents(), seen.run_ids()

    assert set(producers.statuses) == {202}
    assert unanswered, "it died with requests in flight"
    assert set(contents) <= set(producers.sent)
    for id_, receipt in answered.items():
        assert contents[id_] == producers.sent[id_]["data"]
        assert run_ids[id_] == runs_of(receipt)

    seen.start_ready("api-1")
    again = send_again(seen, list(producers.sent.values()))

    for event in unanswered:
        assert again[event["id"]]["duplicate"] is (event["id"] in contents)
    for id_, receipt in answered.items():
        assert again[id_]["duplicate"]
        assert runs_of(again[id_]) == runs_of(receipt)
    sent = len(producers.sent)
    seen.wait_settled(sent, 30)
    assert all(len(ids) == 1 for ids in seen.run_ids().values())
    seen.check_ran_once(sent)
    seen.check_books(sent)


def test_runs_whose_hints_came_to_nothing_come_due_and_settle(site: Open) -> None:
    seen = site(HOLD_S=2, QUEUE_BOUND_S=0.5)
    until(lambda: "fast" in seen.queues(), what="the queue")
    seen.platform.kill("worker-1")

    receipts = seen.post(range(8), size=1)
    seen.platform.kill("api-1")
    seen.purge_all()  # what is left is what a death between commit and hint leaves: rows alone

    assert seen.states() == {"queued": 8}
    seen.start("worker-1")
    seen.wait_settled(8, 20)
    assert {run for receipt in receipts for run in runs_of(receipt)} == set(seen.marks())
    seen.check_ran_once(8)
    seen.check_books(8)


@pytest.mark.slow
def test_an_api_killed_right_after_each_answer_loses_none_of_them(site: Open) -> None:
    seen = site(HOLD_S=1, QUEUE_BOUND_S=0.2)

    for number in range(5):
        seen.post([number])
        seen.platform.kill("api-1")
        seen.start_ready("api-1")

    seen.wait_settled(5, 10)
    seen.check_ran_once(5)
    seen.check_books(5)
