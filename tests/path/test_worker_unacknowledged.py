"""Worker, after settle, before the acknowledgement: redelivered; claim finds nothing."""

import json
import urllib.request
from base64 import b64encode
from collections import Counter
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

from tests.path.seen import Scene, Start
from tests.support.processes import freeze
from tests.support.wait import until

DEEDS: list[list[Any]] = [["note"], ["pause", 0.2], ["book"]]


def test_what_was_settled_and_not_acknowledged_is_not_run_again(scene: Start) -> None:
    seen = scene(hold_s=2)
    run_ids = seen.add(DEEDS, 8)
    until(lambda: seen.at(2, run_ids), what="a run in hand")

    freeze(seen.platform.processes["worker-1"].pid)  # nobody acknowledges now
    # What the children have is settled, run by run; what they had not begun is handed back.
    until(lambda: not seen.states(run_ids)["running"], what="the children to be done")
    settled = seen.states(run_ids)["succeeded"]
    seen.platform.kill("worker-1")
    seen.platform.start("worker-1", "worker")

    assert settled > 0
    assert seen.wait_settled(run_ids, 20) == Counter(succeeded=8)
    more = seen.add(DEEDS, 8)
    assert seen.wait_settled(more) == Counter(succeeded=8)
    assert all(seen.began_once(position, run_ids + more) for position in (1, 2))
    assert seen.bookings(run_ids + more) == Counter({1: 16})
    assert seen.unaccounted() == 0


def test_a_cut_broker_connection_repeats_no_step_and_leaves_no_child_counted_busy(
    scene: Start,
) -> None:
    seen = scene()
    run_ids = seen.add(DEEDS, 60)
    for begun in (10, 30):
        until(partial(has_begun, seen, run_ids, begun), what="the worker to be in the middle")
        assert cut_worker(seen) > 0

    assert seen.wait_settled(run_ids, 20) == Counter(succeeded=60)
    more = seen.add([["note"]], 500)
    assert seen.wait_settled(more, 20) == Counter(succeeded=500)
    assert all(seen.began_once(1, ids) for ids in (run_ids, more))
    assert seen.began_once(2, run_ids)
    assert seen.bookings(run_ids) == Counter({1: 60})
    assert not seen.failed_attempts()
    assert seen.unaccounted() == 0

    both = seen.add([["pause", 1.0]], 2)

    assert seen.wait_settled(both) == Counter(succeeded=2)
    first, second = seen.at(1, both)
    assert first.pid != second.pid
    assert second.at - first.at < 0.9, "both children are free to work at the same time"


def has_begun(seen: Scene, run_ids: list[str], count: int) -> bool:
    """So many of the runs are in their second step or beyond."""
    return len(seen.at(2, run_ids)) >= count


def cut_worker(seen: Scene) -> int:
    """Close what the worker consumes on; how many connections. The API is up to 5 s behind."""
    vhost = seen.platform.broker_url.rpartition("/")[2]

    def consuming() -> list[str]:
        found = manage(seen, "GET", f"/api/consumers/{vhost}")
        details = [one["channel_details"] for one in found if one["channel_details"]]
        return sorted({one["connection_name"] for one in details})

    names = until(consuming, what="the worker's consumers to be listed")
    for name in names:
        manage(seen, "DELETE", f"/api/connections/{quote(name, safe='')}")
    return len(names)


def manage(seen: Scene, method: str, path: str) -> Any:
    """Ask RabbitMQ's management API."""
    parts = urlsplit(seen.platform.management_url)
    request = urllib.request.Request(f"http://{parts.hostname}:{parts.port}{path}", method=method)
    word = b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    request.add_header("Authorization", f"Basic {word}")
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        body = response.read()
    return json.loads(body) if body else None
