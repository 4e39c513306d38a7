"""From a group to a replay that stops by itself, goes on, and is in the audit: in a browser."""

from collections.abc import Iterator
from random import Random

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import OPERATOR, READER, SHOWN, Shown, Tab, showing, tab_of
from tests.console.test_actions import post, session_of, state_of
from tests.support.services import Services
from tests.support.settled import settle
from tests.support.wait import until
from veltrix.domain.ids import EventIds
from veltrix.operations.failures.triage import fold_groups_once
from veltrix.operations.replays.mover import Mover
from veltrix.settings.fields import Settings
from veltrix.store.transactions import transaction


@pytest.fixture
def own(services: Services) -> Iterator[Shown]:
    """A console with three runs that failed in the same way."""
    with showing(services) as there:
        for name in ("bad-2", "bad-3"):
            there.accept(name, {"order": name})
            there.fail(name)
        fold_groups_once(there.engine)
        yield there


def moved(shown: Shown) -> list[str]:
    """The failed runs that are queued again."""
    names = ("bad", "bad-2", "bad-3")
    return [name for name in names if state_of(shown, name)[0] == "queued"]


def press(tab: Tab, button: str, why: str) -> None:
    tab.page.get_by_label("Why", exact=True).fill(why)
    tab.page.get_by_role("button", name=button).click()


def test_a_group_is_replayed_by_canary_stops_by_itself_and_goes_on(
    browser: Browser, own: Shown
) -> None:
    executor = Mover(own.engine, Settings(), EventIds(Random(1).getrandbits))

    def replayed() -> list[str]:
        executor.once()
        return moved(own)

    with tab_of(browser, own) as tab:
        tab.sign_in()
        tab.go("/failures?kind=run")
        tab.page.locator("#list tbody a").first.click()
        expect(tab.page.locator("h1")).to_contain_text("PaymentRefused")
        assert SHOWN in tab.page.locator("main").inner_text()
        plan = tab.page.locator(".bulk")
        plan.get_by_label("First as a canary").fill("1")
        plan.get_by_label("Why").fill("payments are back")
        plan.get_by_role("button", name="Plan a replay of 3").click()
        expect(tab.page.locator("h1")).to_contain_text("planned")
        assert moved(own) == []

        press(tab, "Start: 1 run first, then 2", "the plan is right")
        expect(tab.page.locator("h1")).to_contain_text("canary")
        (canary,) = until(replayed, what="the canary")
        settle(own.engine, [own.runs[canary]], "failed", reason="error", fingerprint="f00d")
        executor.once()
        expect(tab.page.locator("h1")).to_contain_text("stopped")

        press(tab, "Resume", "the bank says it works now")
        expect(tab.page.locator("h1")).to_contain_text("canary")
        (second,) = until(replayed, what="another canary")
        settle(own.engine, [own.runs[second]], "succeeded")
        (third,) = until(lambda: set(replayed()) - {second}, what="the rest to follow")
        expect(tab.page.locator("h1")).to_contain_text("running")
        press(tab, "Abort", "it takes too long")
        expect(tab.page.locator("h1")).to_contain_text("aborted")
        tab.go("/audit?target=replay")
        rows = tab.page.locator("#list tbody tr")
        for row, action in enumerate(("abort", "resume", "stop", "start", "plan")):
            expect(rows.nth(row)).to_contain_text(f"replay.{action}")

    assert len({canary, second, third}) == 3
    assert state_of(own, canary) == ("failed", 1)
    assert state_of(own, second) == ("succeeded", 1)


def test_a_group_is_judged_and_noted_by_who_may(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    reader, reader_csrf = session_of(own, READER)
    mine = {"csrf": csrf, "reason": "the bank says 14:00"}

    note = post(own, "/failures/f00d/note", mine, cookie=cookie)
    resolved = post(own, "/failures/f00d/resolve", mine | {"version": "v2"}, cookie=cookie)
    again = post(own, "/failures/f00d/resolve", mine, cookie=cookie)
    strange = post(own, "/failures/nothing/ignore", mine, cookie=cookie)
    theirs = post(own, "/failures/f00d/reopen", mine | {"csrf": reader_csrf}, cookie=reader)

    told = [answer.status for answer in (note, resolved, again, strange, theirs)]
    assert told == [303, 303, 409, 404, 403]
    page = own.api.get("/console/failures/f00d", cookie=reader).text
    unrouted = own.api.get("/console/failures?kind=unrouted", cookie=cookie).text
    nobody = unrouted.split("/failures/")[1].split('"')[0]
    versioned = post(own, f"/failures/{nobody}/resolve", mine | {"version": "v2"}, cookie=cookie)
    assert versioned.status == 422
    assert "Mended in version" not in own.api.get(f"/console/failures/{nobody}", cookie=cookie).text
    assert "resolved" in page
    assert "the bank says 14:00" in page
    assert "Plan a replay" not in page
    assert "evil.example" not in page


def test_what_cannot_be_planned_says_why_and_moves_nothing(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    form = {"csrf": csrf, "reason": "again", "from": "failed_step", "canary": "1"}
    plan = "/failures/f00d/plan"

    assert post(own, plan, form | {"from": "x"}, cookie=cookie).status == 400
    assert post(own, plan, form | {"rate": "fast"}, cookie=cookie).status == 400
    assert post(own, plan, form | {"stop_percent": "101"}, cookie=cookie).status == 400
    assert post(own, "/failures/none/plan", form, cookie=cookie).status in {404, 409}
    assert post(own, f"/replays/{own.replay}/pause", form, cookie=cookie).status == 409

    assert moved(own) == []
    with transaction(own.engine) as tx:
        assert tx.exec_driver_sql("select count(*) from replays").scalar_one() == 1
