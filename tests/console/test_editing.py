"""A failed run's payload is edited by hand and runs as a new run; a refusal keeps the text."""

import html
import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import EDITOR, OPERATOR, READER, SHOWN, Shown, showing_orders, tab_of
from tests.console.test_actions import audited, post, session_of, state_of
from tests.console.test_pages import barriers
from tests.support.services import Services
from veltrix.store.transactions import transaction

TYPED = '{"order": 3,\n "note": "typed <b>by hand</b>"}'


@pytest.fixture
def own(services: Services) -> Iterator[Shown]:
    """A console of this test's own."""
    with showing_orders(services) as there:
        yield there


def form_of(shown: Shown, cookie: str, name: str = "bad") -> dict[str, str]:
    """What the page of a run's edit would send if nobody typed anything."""
    page = shown.api.get(f"/console/runs/{shown.runs[name]}/edit", cookie=cookie).text
    hidden = ("csrf", "once", "version")
    form = {
        field: html.unescape(page.partition(f'name="{field}" value="')[2].partition('"')[0])
        for field in hidden
    }
    data = page.partition('name="data"')[2].partition(">\n")[2].partition("</textarea>")[0]
    return form | {"data": html.unescape(data), "reason": "the shop sent text"}


def made(shown: Shown) -> list[tuple[str, Any]]:
    """The runs that edits made, with their payloads."""
    with transaction(shown.engine) as tx:
        rows = tx.exec_driver_sql(
            "select r.id::text, e.data::text from runs r join events e on e.id = r.event_id"
            " where r.origin_run_id is not null order by r.id"
        )
        return [(row[0], json.loads(row[1])) for row in rows]


def test_a_payload_is_edited_in_a_browser_and_both_runs_and_the_audit_tell_it(
    browser: Browser, own: Shown
) -> None:
    with tab_of(browser, own) as tab:
        tab.sign_in()
        tab.go(f"/runs/{own.runs['bad']}")
        tab.page.get_by_role("link", name="Edit and replay…").click()
        payload = tab.page.get_by_label("Payload (JSON)")
        text = payload.input_value()
        assert '"order": 2' in text
        payload.fill(text.replace('"order": 2', '"order": 3'))
        tab.page.get_by_label("Why").fill("the order was the third")
        tab.page.get_by_role("button", name="Run 1 edited payload").click()

        expect(tab.page.get_by_text("runs as this new run")).to_be_visible()
        changes = tab.page.locator("#changes")
        expect(changes).to_contain_text("the order was the third")
        expect(changes.locator("pre")).to_contain_text('-  "order": 2')
        expect(changes.locator("pre")).to_contain_text('+  "order": 3')
        assert SHOWN in changes.inner_text()
        assert barriers(tab) == []
        ((new, _),) = made(own)
        changes.get_by_role("link").click()
        expect(tab.page.locator("h1")).to_contain_text("failed")
        assert tab.page.locator(f"dl a[href$='{new}']").count() == 1
        tab.go("/audit?action=run.edit")
        expect(tab.page.locator("#list tbody tr").first).to_contain_text("the order was the third")

    assert state_of(own, "bad") == ("failed", 0)
    assert made(own)[0][1]["order"] == 3
    assert audited(own, "run.edit") == [("anna", "the order was the third", False)]


def test_a_payload_of_nearly_a_mebibyte_is_edited_in_a_form(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    large = json.dumps({"order": 3, "note": '"é' * 240_000}, ensure_ascii=False)
    assert 900_000 < len(large.encode()) < 1_048_576
    form = form_of(own, cookie) | {"data": large}

    sent = post(own, f"/runs/{own.runs['bad']}/edit", form, cookie=cookie)
    shown = own.api.get(sent.headers["location"], cookie=cookie)

    assert sent.status == 303
    ((_, payload),) = made(own)
    assert payload == json.loads(large)
    assert "more characters" in shown.text


def test_what_does_not_fit_is_said_and_the_text_is_kept(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    path = f"/runs/{own.runs['bad']}/edit"
    form = form_of(own, cookie)
    assert json.loads(form["data"])["order"] == 2

    wrong = TYPED.replace("3", '"three"')
    invalid = post(own, path, form | {"data": wrong}, cookie=cookie)
    broken = post(own, path, form | {"data": TYPED[:-1]}, cookie=cookie)
    silent = post(own, path, form | {"data": TYPED, "reason": " "}, cookie=cookie)
    blind = post(own, path, form | {"data": TYPED, "version": ""}, cookie=cookie)

    told = [answer.status for answer in (invalid, broken, silent, blind)]
    assert told == [400, 400, 400, 400]
    for answer, says in (
        (invalid, "/order: &#39;three&#39; is not of type &#39;integer&#39;"),
        (broken, "The payload is not JSON"),
        (silent, "A reason is needed"),
        (blind, "Version must say"),
    ):
        assert says in answer.text
        assert "typed &lt;b&gt;by hand&lt;/b&gt;" in answer.text
    assert made(own) == []
    assert [is_refused for _, _, is_refused in audited(own, "run.edit")] == [True]


def test_every_place_that_does_not_fit_is_named(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    form = form_of(own, cookie) | {"data": '{"order": "three", "at": "soon"}'}

    refused = post(own, f"/runs/{own.runs['bad']}/edit", form, cookie=cookie)

    assert refused.status == 400
    assert "<code>/order</code> &#39;three&#39; is not of type &#39;integer&#39;" in refused.text
    assert "<code>/at</code> &#39;soon&#39; is not a &#39;date&#39;" in refused.text


def test_a_stale_version_is_told_with_the_text_kept_and_may_be_sent_again_knowingly(
    own: Shown,
) -> None:
    cookie, _ = session_of(own, OPERATOR)
    path = f"/runs/{own.runs['bad']}/edit"
    mine, theirs = (form_of(own, cookie) | {"data": TYPED} for _ in range(2))

    first = post(own, path, theirs, cookie=cookie)
    again = post(own, path, theirs, cookie=cookie)
    stale = post(own, path, mine, cookie=cookie)

    assert (first.status, again.status, stale.status) == (303, 303, 412)
    assert first.headers["location"] == again.headers["location"]
    assert len(made(own)) == 1
    assert "is not as you saw it" in stale.text
    assert "typed &lt;b&gt;by hand&lt;/b&gt;" in stale.text
    now = form_of(own, cookie)
    assert html.escape(now["version"], quote=True).replace("&quot;", "&#34;") in stale.text
    assert post(own, path, now | {"data": TYPED}, cookie=cookie).status == 303
    assert len(made(own)) == 2


def test_a_run_that_is_not_failed_any_more_is_not_edited(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    run = f"/runs/{own.runs['bad']}"
    form = form_of(own, cookie) | {"data": TYPED}
    again = {"csrf": csrf, "from": "beginning", "reason": "again"}
    assert post(own, f"{run}/replay", again, cookie=cookie).status == 303

    late = post(own, f"{run}/edit", form, cookie=cookie)
    page = own.api.get(f"/console{run}/edit", cookie=cookie)

    assert (late.status, page.status) == (412, 409)
    assert "cannot be sent: the run is queued" in late.text
    assert "Run 1 edited payload" not in late.text
    assert made(own) == []


def test_only_who_may_edit_and_see_payloads_edits_and_only_by_an_own_form(own: Shown) -> None:
    cookie, _ = session_of(own, OPERATOR)
    form = form_of(own, cookie) | {"data": TYPED}
    path = f"/runs/{own.runs['bad']}/edit"
    for key, lacks in ((READER, "runs:edit"), (EDITOR, "payloads:read")):
        theirs, csrf = session_of(own, key)
        page = own.api.get(f"/console{path}", cookie=theirs)
        sent = post(own, path, form | {"csrf": csrf}, cookie=theirs)

        assert (page.status, sent.status) == (403, 403)
        assert lacks in page.text
        assert "&#34;order&#34;" not in page.text
        assert "Edit and replay" not in own.api.get(f"/console{path[:-5]}", cookie=theirs).text
    forged = [
        post(own, path, form | {"csrf": "x"}, cookie=cookie),
        post(own, path, form, cookie=cookie, origin="https://evil.example"),
    ]

    assert [answer.status for answer in forged] == [403, 403]
    assert made(own) == []
    refused = [(author, why) for author, why, _ in audited(own, "console.act")]
    authors = ["viewer", "viewer", "blind", "blind", "anna", "anna"]
    assert [author for author, _ in refused] == authors
    assert all("runs:edit" in why for _, why in refused[:2])
    assert all("payloads:read" in why for _, why in refused[2:4])
