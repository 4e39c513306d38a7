"""A JSON Patch over a group: looked at before and after, planned, started; a refusal keeps it."""

import html
from collections.abc import Iterator
from random import Random

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import EDITOR, OPERATOR, READER, SHOWN, Shown, showing_orders, tab_of
from tests.console.test_actions import audited, post, session_of, state_of
from tests.console.test_editing import made
from tests.console.test_pages import barriers
from tests.support.services import Services
from tests.support.wait import until
from veltrix.access import keys
from veltrix.domain.ids import EventIds
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.operations.replays.mover import Mover
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction

EDIT = "/failures/f00d/edit"
PATCH = '[{"op": "replace", "path": "/order", "value": 7}]'
TO_TEXT = '[{"op": "replace", "path": "/order", "value": "<b>seven</b>"}]'


@pytest.fixture
def own(services: Services) -> Iterator[Shown]:
    """A console with two failed runs of a workflow that takes orders with a whole number."""
    with showing_orders(services) as there:
        there.accept("bad-2", {"order": 4})
        there.fail("bad-2")
        fold_groups_once(there.engine)
        yield there


def form_of(shown: Shown, cookie: str) -> dict[str, str]:
    """What the page would send if nobody typed anything but a patch and a reason."""
    page = shown.api.get(f"/console{EDIT}", cookie=cookie).text
    names = ("csrf", "once", "canary", "rate", "stop_percent")
    form = {name: page.partition(f'name="{name}"')[2].partition(">")[0] for name in names}
    form = {
        name: html.unescape(tag.partition('value="')[2].partition('"')[0])
        for name, tag in form.items()
    }
    return form | {"patch": PATCH, "reason": "the shop sent the wrong order"}


def planned(shown: Shown) -> int:
    """How many replays there are, beside that of the fixture."""
    with transaction(shown.engine) as tx:
        count: int = tx.exec_driver_sql("select count(*) from replays").scalar_one()
    return count - 1


def test_a_group_is_patched_in_a_browser_from_its_page_to_the_new_runs(
    browser: Browser, own: Shown
) -> None:
    executor = Mover(own.engine, Settings(), EventIds(Random(1).getrandbits))

    def has_run() -> bool:
        executor.once()
        return len(made(own)) == 2

    with tab_of(browser, own) as tab:
        tab.sign_in()
        tab.go("/failures/f00d")
        tab.page.get_by_role("link", name="Edit their payloads…").click()
        expect(tab.page.locator("main h2")).to_contain_text("Payloads as they are: all 2")
        assert SHOWN in tab.page.locator("main").inner_text()
        tab.page.get_by_label("Patch (JSON)").fill(PATCH)
        tab.page.get_by_role("button", name="Preview").click()
        expect(tab.page.locator("main h2")).to_contain_text("Before and after: all 2")
        shown = tab.page.get_by_label(f"Payload of {own.runs['bad']}")
        expect(shown).to_contain_text('-  "order": 2')
        expect(shown).to_contain_text('+  "order": 7')
        assert barriers(tab) == []
        assert planned(own) == 0

        tab.page.get_by_label("First as a canary").fill("0")
        tab.page.get_by_label("Why").fill("the shop sent the wrong order")
        tab.page.get_by_role("button", name="Plan the edit of 2 runs").click()
        expect(tab.page.locator("h1")).to_contain_text("planned")
        expect(tab.page.get_by_label("Patch")).to_contain_text('"path": "/order"')
        expect(tab.page.get_by_text("Before and after: all 2")).to_be_visible()
        assert barriers(tab) == []
        assert made(own) == []
        tab.page.get_by_label("Why", exact=True).fill("it is right")
        tab.page.get_by_role("button", name="Start: 2 runs").click()
        expect(tab.page.locator("h1")).to_contain_text("running")
        until(has_run, what="two new runs")

    assert [data["order"] for _, data in made(own)] == [7, 7]
    assert state_of(own, "bad") == ("failed", 0)
    assert audited(own, "replay.plan")[-1][:2] == ("anna", "the shop sent the wrong order")


def test_what_is_refused_is_said_and_the_patch_is_kept(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    form = form_of(own, cookie)
    missing = '[{"op": "remove", "path": "/nothing"}]'

    unfit = post(own, EDIT, form | {"patch": TO_TEXT}, cookie=cookie)
    looked = post(own, f"{EDIT}/preview", form | {"patch": TO_TEXT}, cookie=cookie)
    nowhere = post(own, EDIT, form | {"patch": missing}, cookie=cookie)
    broken = post(own, f"{EDIT}/preview", form | {"patch": PATCH[:-1]}, cookie=cookie)
    unknown = post(own, f"{EDIT}/preview", form | {"patch": '[{"op": "grow"}]'}, cookie=cookie)
    silent = post(own, EDIT, form | {"reason": ""}, cookie=cookie)
    fast = post(own, EDIT, form | {"rate": "fast"}, cookie=cookie)

    told = [a.status for a in (unfit, looked, nowhere, broken, unknown, silent, fast)]
    assert told == [400, 200, 400, 400, 400, 400, 400]
    for answer, says in (
        (unfit, "does not fit the workflow&#39;s input"),
        (looked, "does not fit the workflow&#39;s input"),
        (nowhere, "Operation 0, remove &#39;/nothing&#39;, cannot be applied"),
        (broken, "The patch is no JSON Patch"),
        (unknown, "operation 0"),
        (silent, "A reason is needed"),
        (fast, "Rate must be a number"),
    ):
        assert says in answer.text
        assert "Nothing was planned" in answer.text or answer is looked
    for name in ("bad", "bad-2"):
        assert own.runs[name] in unfit.text
        assert own.runs[name] in nowhere.text
    assert "&lt;b&gt;seven&lt;/b&gt;" in unfit.text
    assert "<b>seven" not in unfit.text + looked.text
    assert planned(own) == 0
    assert made(own) == []


def test_a_preview_is_made_each_time_and_kept_nowhere(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    form = form_of(own, cookie)
    other = PATCH.replace("7", "8")

    first = post(own, f"{EDIT}/preview", form, cookie=cookie)
    second = post(own, f"{EDIT}/preview", form | {"patch": other}, cookie=cookie)

    assert (first.status, second.status) == (200, 200)
    assert "8" in second.text.partition("Before and after")[2]
    with transaction(own.engine) as tx:
        kept = tx.exec_driver_sql("select count(*) from answers").scalar_one()
    assert kept == 0


def test_an_example_is_shown_and_not_sent(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    page = own.api.get(f"/console{EDIT}", cookie=cookie).text
    typed = page.partition('name="patch"')[2].partition(">\n")[2].partition("</textarea>")[0]

    assert "/coupon" in page
    assert typed == ""
    nothing = post(own, EDIT, form_of(own, cookie) | {"patch": ""}, cookie=cookie)
    assert nothing.status == 400
    assert planned(own) == 0


def test_a_planned_patch_is_shown_to_who_may_see_payloads(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    reader, _ = session_of(own, READER)
    there = post(own, EDIT, form_of(own, cookie), cookie=cookie).headers["location"]

    mine, theirs = (own.api.get(there, cookie=one).text for one in (cookie, reader))

    assert "&#34;path&#34;: &#34;/order&#34;" in mine
    assert "-  &#34;order&#34;: 4" in mine
    assert "with edited payloads" in theirs
    assert "lacks the scope <code>payloads:read</code>" in theirs
    assert "&#34;path&#34;" not in theirs
    assert "&#34;order&#34;" not in theirs


def test_only_who_may_edit_and_see_payloads_patches(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    form = form_of(own, cookie)
    for key, lacks in ((READER, "runs:edit"), (EDITOR, "payloads:read")):
        theirs, csrf = session_of(own, key)
        page = own.api.get(f"/console{EDIT}", cookie=theirs)
        sent = [
            post(own, path, form | {"csrf": csrf}, cookie=theirs)
            for path in (EDIT, f"{EDIT}/preview")
        ]

        assert {page.status, *(answer.status for answer in sent)} == {403}
        assert lacks in page.text
        group = own.api.get("/console/failures/f00d", cookie=theirs).text
        assert "Edit their payloads" not in group
    with transaction(own.engine) as tx:
        scopes = ["runs:read", "runs:edit", "payloads:read"]
        keys.create(tx, "previewer", scopes, "tests", "p" * 43)
    theirs, csrf = session_of(own, "p" * 43)
    looked, sent_ = (
        post(own, path, form | {"csrf": csrf}, cookie=theirs) for path in (f"{EDIT}/preview", EDIT)
    )
    assert (looked.status, sent_.status) == (200, 403)
    assert "runs:replay" in sent_.text
    assert post(own, EDIT, form | {"csrf": "x"}, cookie=cookie).status == 403
    nothing = own.api.get("/console/failures/nothing/edit", cookie=cookie)

    assert nothing.status == 409
    assert planned(own) == 0
