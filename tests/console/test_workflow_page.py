"""The page of a workflow: what its newest runs say, and a run that is started from its form."""

import html
import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import EDITOR, HOSTILE, OPERATOR, SHOWN, WRITER, Shown, showing, tab_of
from tests.console.test_actions import post, session_of
from tests.console.test_pages import barriers
from tests.support.accepting import PLACED, subscribe, subscription
from tests.support.services import Services
from veltrix.access import keys
from veltrix.console.start_form import Field, NotJson, fields_of, input_of
from veltrix.operations.runs.read_workflow import workflow_runs
from veltrix.store.transactions import transaction

SCHEMA: dict[str, Any] = {
    "$ref": "#/$defs/Order",
    "$defs": {
        "Order": {
            "type": "object",
            "required": ["order", "count", "carrier"],
            "properties": {
                "order": {"type": "string", "description": HOSTILE, "minLength": 2},
                "count": {"type": "integer", "minimum": 1},
                "price": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
                "express": {"type": "boolean", "default": False},
                "carrier": {"$ref": "#/$defs/Carrier"},
                "by": {"type": "string", "format": "date"},
                "items": {"type": "array", "items": {"type": "string"}},
            },
        },
        "Carrier": {"enum": ["dhl", "ups", 7]},
    },
}


@pytest.fixture(scope="module")
def own(services: Services) -> Iterator[Shown]:
    """A console whose workflow declares its input, and a key that may look and not start."""
    with showing(services) as there:
        subscribe(
            there.engine, subscription("fulfil", PLACED, code_version="v2", input_schema=SCHEMA)
        )
        with transaction(there.engine) as tx:
            keys.create(tx, "looker", ["runs:read"], "tests", EDITOR)
        yield there


def page_of(own: Shown, key: str = OPERATOR, query: str = "") -> tuple[str, str]:
    """Its text, and the cookie it was asked for with."""
    cookie, _ = session_of(own, key)
    answer = own.api.get(f"/console/workflows/fulfil{query}", cookie=cookie)
    assert answer.status == 200
    return answer.text, cookie


def form_of(page: str) -> dict[str, str]:
    """The hidden fields of its form."""
    form = page[page.index('id="start"') :]
    return {
        name: html.unescape(form.partition(f'name="{name}" value="')[2].partition('"')[0])
        for name in ("csrf", "once", "version")
    }


def input_of_run(own: Shown, location: str) -> tuple[Any, str]:
    """What the run was started with, and by whom."""
    run = location.partition("/runs/")[2].partition("?")[0]
    with transaction(own.engine) as tx:
        row = tx.exec_driver_sql(
            "select e.data::text, r.created_by from runs r join events e on e.id = r.event_id"
            " where r.id = %(id)s",
            {"id": run},
        ).one()
    return json.loads(row[0]), row[1]


def test_a_run_is_started_from_a_form_made_of_the_schema(browser: Browser, own: Shown) -> None:
    with tab_of(browser, own) as tab:
        tab.sign_in()
        tab.go("/workflows")
        tab.page.get_by_role("link", name="fulfil").click()
        form = tab.page.locator("#start")
        expect(form).to_contain_text(SHOWN)
        form.get_by_label("order").fill("A-1")
        form.get_by_label("count").fill("2")
        form.get_by_label("carrier").select_option("ups")
        form.get_by_label("items").fill('["mug"]')
        form.get_by_role("button", name="Start 1 run").click()
        expect(tab.page.get_by_text("The start is accepted")).to_be_visible()
        sent, author = input_of_run(own, tab.page.url)
        tab.go("/workflows/fulfil")
        found = barriers(tab)

    assert sent == {
        "order": "A-1",
        "count": 2,
        "express": False,
        "carrier": "ups",
        "items": ["mug"],
    }
    assert author == "anna"
    assert found == []


def test_what_does_not_fit_is_said_with_its_place_and_kept_as_it_was_typed(own: Shown) -> None:
    page, cookie = page_of(own)
    typed = {"in:order": "A", "in:count": "many", "in:carrier": '"dhl"', "in:items": ""}

    refused = post(own, "/workflows/fulfil", form_of(page) | typed, cookie=cookie)
    broken = post(own, "/workflows/fulfil", form_of(page) | {"in:items": "[1,"}, cookie=cookie)

    assert refused.status == 400
    for words in ("<code>/order</code>", "<code>/count</code>", 'value="many"', "Nothing was"):
        assert words in refused.text
    assert broken.status == 400
    assert "Items is not JSON" in broken.text
    assert "[1," in broken.text


def test_a_form_starts_one_run_and_none_for_other_code_or_other_keys(own: Shown) -> None:
    page, cookie = page_of(own, query="?as=json")
    sent = form_of(page) | {"as": "json", "input": '{"order":"A-2","count":1,"carrier":7}'}

    first, again = (post(own, "/workflows/fulfil", sent, cookie=cookie) for _ in range(2))
    old = post(own, "/workflows/fulfil", sent | {"version": "v1", "once": "x"}, cookie=cookie)
    looking, their_cookie = page_of(own, EDITOR)
    theirs = form_of(page) | {"csrf": session_of(own, EDITOR)[1]}
    strange = post(own, "/workflows/fulfil", theirs, cookie=their_cookie)

    assert (first.status, again.status) == (303, 303)
    assert first.headers["location"] == again.headers["location"]
    assert input_of_run(own, first.headers["location"])[0]["carrier"] == 7
    assert old.status == 409
    assert "other code" in old.text.lower()
    assert "lacks <code>events:write</code>" in looking
    assert strange.status == 403
    assert post(own, "/workflows/nobody", sent | {"once": "y"}, cookie=cookie).status == 404
    assert own.api.get("/console/workflows/nobody", cookie=cookie).status == 404


def test_the_page_counts_what_became_of_the_newest_runs(own: Shown) -> None:
    with transaction(own.engine, snapshot=True) as tx:
        found = workflow_runs(tx, "fulfil")
        nobody = workflow_runs(tx, "nobody")

    assert found.accepted >= 3
    assert (found.succeeded, found.failed, found.failed_share) == (1, 1, 0.5)
    assert sum(bucket.accepted for bucket in found.buckets) == found.accepted
    assert found.buckets[-1].failed == 1
    assert found.pace is not None
    assert found.pace.settled == 2
    assert (nobody.accepted, nobody.failed_share, nobody.pace) == (0, None, None)


def test_fields_are_made_of_plain_types_and_everything_else_is_json() -> None:
    kinds = {field.name: (field.kind, field.is_required) for field in fields_of(SCHEMA)}

    assert kinds == {
        "order": ("text", True),
        "count": ("integer", True),
        "price": ("number", False),
        "express": ("boolean", False),
        "carrier": ("choice", True),
        "by": ("date", False),
        "items": ("json", False),
    }


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "array"},
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"$ref": "https://elsewhere.example/x"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"properties": {str(n): {} for n in range(99)}},
        {"properties": []},
    ],
)
def test_a_schema_that_makes_no_form_asks_for_json(schema: dict[str, Any] | None) -> None:
    assert fields_of(schema) == []
    assert input_of([], {"input": " [1, 2] "}) == b"[1, 2]"
    assert input_of([], {}) == b""
    with pytest.raises(NotJson, match="input is"):
        input_of([], {"input": "{"})


def test_numbers_are_sent_as_they_were_typed() -> None:
    fields = [Field(name="n", kind="number", is_required=True, title="n")]

    assert input_of(fields, {"in:n": "12345678901234567890.10"}) == b'{"n":12345678901234567890.10}'
    assert input_of(fields, {"in:n": "1e"}) == b'{"n":"1e"}'
    assert input_of(fields, {"in:n": "true"}) == b'{"n":"true"}'


def test_who_may_only_send_events_has_no_console(own: Shown) -> None:
    assert post(own, "/sign-in", {"key": WRITER}).status == 403
