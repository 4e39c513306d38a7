"""Each file of `examples/` does on a real platform what it says."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples import exactly_once
from examples.failing import replay
from examples.producer import send
from examples.start_and_wait import start
from tests.docs.conftest import Shop
from tests.docs.pages import ROOT
from veltrix.store.transactions import make_engine

_sent = iter(range(1, 1_000))


@pytest.fixture
def api(shop: Shop) -> Iterator[httpx.Client]:
    """A client of the platform's api."""
    with httpx.Client(base_url=shop.api_url, timeout=30) as client:
        yield client


def run(api: httpx.Client, type_: str, **data: Any) -> dict[str, Any]:
    """The settled run that an event of this type starts."""
    event = {"id": f"{next(_sent)}", "source": "/examples", "type": type_, "data": data}
    receipt = send(api, event)
    return story(api, receipt["runs"][0]["id"])


def story(api: httpx.Client, run_id: str) -> dict[str, Any]:
    """It, when it is settled."""
    found: dict[str, Any] = api.get(f"/v1/runs/{run_id}", params={"wait_s": 20}).json()
    return found


def test_a_step_is_tried_again(api: httpx.Client) -> None:
    shipped = run(api, "examples.parcel.packed", parcel="p-1")
    refused = run(api, "examples.parcel.packed", parcel="")

    assert shipped["outcome"].startswith("booking ")
    assert [one["type"] for one in shipped["failed_attempts"]] == ["CarrierBusy"] * 2
    assert (refused["state"], len(refused["failed_attempts"])) == ("failed", 1)


def test_steps_run_side_by_side(api: httpx.Client) -> None:
    assert run(api, "examples.price.asked", sku="lamp")["outcome"] == 504


def test_a_run_sleeps(api: httpx.Client) -> None:
    outcome = run(api, "examples.cart.left", customer="anna", after_s=0.3)["outcome"]

    assert outcome["said"] == "told anna"
    assert outcome["slept_s"] >= 0.3


def test_a_booking_is_made_once(api: httpx.Client, shop: Shop) -> None:
    engine = make_engine(shop.platform.database_url, application="tests")
    exactly_once.metadata.create_all(engine)
    engine.dispose()

    assert run(api, "examples.order.settled", order="o-1", cents=4_990)["outcome"] == 4_990
    assert shop.ask("select * from example_bookings") == [("o-1", 4_990)]


def test_a_run_has_a_key_and_may_have_nothing_to_do(api: httpx.Client) -> None:
    paid = run(api, "examples.refund.asked", order="o-2", cents=100)
    skipped = run(api, "examples.order.cancelled", order="o-3", cents=0)

    assert (paid["key"], paid["outcome"]) == ("o-2", "100 cents for o-2")
    assert (skipped["state"], skipped["reason"]) == ("succeeded", "skipped")


def test_a_step_knows_where_it_is(api: httpx.Client) -> None:
    found = run(api, "examples.order.doubted", order="o-4")

    assert found["outcome"] == {"run": found["id"], "step": "check", "attempt": 1}


def test_a_client_is_shared(api: httpx.Client, shop: Shop) -> None:
    assert run(api, "examples.page.changed", url=f"{shop.api_url}/livez")["outcome"] == 200


def test_a_failed_run_is_replayed_from_the_failed_step(api: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "report"
    failed = run(api, "examples.report.asked", name="May", file=os.fspath(file))
    file.write_text("all is well")
    replay(api, failed["id"], "the file has come")
    again = story(api, failed["id"])

    assert (failed["state"], failed["failed_step"]) == ("failed", "read")
    assert (again["generation"], again["outcome"]) == (1, "report of May: all is well")


def test_an_event_sent_again_is_one_event(api: httpx.Client) -> None:
    event = {"id": "twice", "source": "/examples", "type": "examples.nobody", "data": 1}

    assert "duplicate" not in {k for k, v in send(api, event).items() if v}
    assert send(api, event)["duplicate"] is True
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        send(api, {**event, "data": 2})


def test_a_start_by_name_waits_and_starts_once(api: httpx.Client) -> None:
    first = start(api, [1, 2, 3], key="once")
    again = start(api, [1, 2, 3], key="once")

    assert (first["state"], first["outcome"]) == ("succeeded", 6)
    assert again["id"] == first["id"]


def test_each_example_is_in_the_list_and_here() -> None:
    files = {path.name for path in (ROOT / "examples").glob("*.py")} - {"__init__.py"}
    table = (ROOT / "examples" / "README.md").read_text()
    listed = re.findall(r"^\| \[(\w+\.py)\]", table, re.MULTILINE)

    assert sorted(listed) == sorted(files)
