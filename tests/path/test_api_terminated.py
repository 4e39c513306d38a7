"""A deploy: of two apis behind haproxy one is stopped and started, and no request is refused."""

from pathlib import Path

import pytest

from tests.path.site import Open, Producers, Site, site
from tests.support.wait import until
from veltrix.dev.servers.haproxy import before_apis

__all__ = ["site"]


def wait_taken(seen: Site, name: str, producers: Producers) -> None:
    """That api takes events again, so what comes next is sent to both."""
    before = seen.metric("veltrix_events_accepted_total", name)
    until(
        lambda: seen.metric("veltrix_events_accepted_total", name) > before,
        10,
        f"{name} to take events",
    )


def wait_answered(producers: Producers) -> None:
    """Somebody is answered again."""
    before = len(producers.receipts)
    until(lambda: len(producers.receipts) > before, 5, "an answer")


@pytest.mark.slow
def test_apis_replaced_one_by_one_behind_haproxy_refuse_no_request(
    site: Open, tmp_path: Path
) -> None:
    seen = site(apis=2)
    names = ("api-1", "api-2")
    ports = [seen.member(name).port for name in names]

    with (
        before_apis(tmp_path / "haproxy", *ports) as balancer,
        Producers(balancer.url, sizes=(1, 1, 1, 20)) as producers,
    ):
        for name in names:
            wait_taken(seen, name, producers)
            seen.platform.terminate(name)
            assert seen.platform.wait_ended(name) == 0
            wait_answered(producers)
            seen.start_ready(name)

    sent = len(producers.sent)
    assert set(producers.statuses) == {202}
    assert producers.unanswered == []
    assert set(seen.contents()) == set(producers.receipts)
    seen.wait_settled(sent, 60)
    seen.check_ran_once(sent)
    seen.check_books(sent)
