"""The page of retention: policies looked at by who may read, and set by who is an administrator."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Browser, expect

from tests.console.conftest import OPERATOR, READER, Shown, showing, tab_of
from tests.console.test_actions import audited, post, session_of
from tests.support.old_ledger import add_past, days_ago
from tests.support.services import Services
from veltrix.domain.states import RunState
from veltrix.operations.retention.policies import read
from veltrix.operations.retention.rules import DAY_S, JudgedEvent, JudgedRun, PolicyOutcome
from veltrix.store.transactions import transaction


@pytest.fixture
def own(services: Services) -> Iterator[Shown]:
    """A console of this test's own, with three events of 40 days ago, of which one is kept."""
    with showing(services) as there:
        at = days_ago(datetime.now(UTC), 40)
        ended = [JudgedRun("a", RunState.SUCCEEDED, at)]
        failed = [JudgedRun("a", RunState.FAILED, at)]
        add_past(there.engine, [JudgedEvent(at, False, True, ended)] * 2)
        add_past(there.engine, [JudgedEvent(at, False, True, failed)])
        yield there


def in_force(shown: Shown) -> dict[tuple[str, str], tuple[int | None, int | None]]:
    with transaction(shown.engine) as tx:
        return {(p.workflow, p.outcome.value): (p.content_s, p.lines_s) for p in read(tx)}


def test_a_policy_is_tried_looked_at_and_put_in_force_with_a_reason(
    browser: Browser, own: Shown
) -> None:
    with tab_of(browser, own) as tab:
        tab.sign_in(OPERATOR)
        tab.go("/retention")
        expect(tab.page.get_by_text("None: everything is kept.")).to_be_visible()
        tab.page.get_by_label("What ended").select_option("succeeded")
        tab.page.get_by_label("Content, days").fill("30")
        tab.page.get_by_role("button", name="Show what it lets go").click()
        expect(tab.page.get_by_text("Proposed, not in force")).to_be_visible()
        assert in_force(own) == {}

        tab.page.get_by_label("Why").fill("agreed")
        tab.page.get_by_role("button", name="Put in force: 2 events").click()
        expect(tab.page.get_by_role("region", name="Policies")).to_contain_text("30 days")

    assert in_force(own) == {("", "succeeded"): (30 * DAY_S, 400 * DAY_S)}
    assert audited(own, "retention.set") == [("anna", "agreed", False)]


def test_the_usual_policies_are_one_click_and_show_what_stays(browser: Browser, own: Shown) -> None:
    with tab_of(browser, own) as tab:
        tab.sign_in(OPERATOR)
        tab.go("/retention")
        tab.page.get_by_role("link", name="The usual policies").click()

        cells = tab.page.get_by_role("region", name="Days").locator("tbody tr td").all_inner_texts()
        assert cells[1:3] == ["3", "2"]
        assert cells[5] == "1", "failed, not dealt with"


def test_who_may_only_read_sees_the_plan_and_sets_nothing(own: Shown) -> None:
    cookie, csrf = session_of(own, READER)
    policy = {"outcome": "failed", "content": "30", "reason": "r", "csrf": csrf, "once": "1"}

    page = own.api.get("/console/retention?defaults=yes", cookie=cookie)
    refused = post(own, "/retention", policy, cookie=cookie)

    assert page.status == 200
    assert "takes a key with the scope" in page.text
    assert "Put in force" not in page.text
    assert refused.status == 403
    assert in_force(own) == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": ""}, "outcome is needed"),
        ({"outcome": "lost"}, "outcome must be"),
        ({"content": ""}, "number of days, or never"),
        ({"content": "0"}, "from one day"),
        ({"content": "1e3"}, "whole number"),
        ({"lines": "1"}, "as long as content"),
        ({"workflow": "nobody"}, "was ever registered"),
        ({"reason": ""}, "a reason is needed"),
        ({"csrf": "x"}, "form"),
    ],
)
def test_a_form_that_cannot_be_meant_sets_nothing(
    own: Shown, change: dict[str, str], says: str
) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    form = {"outcome": "failed", "content": "30", "reason": "r", "csrf": csrf, "once": "1"}

    answer = post(own, "/retention", form | change, cookie=cookie)

    assert answer.status in {400, 403}
    assert says.lower() in answer.text.lower(), "a sentence begins with a capital"
    assert in_force(own) == {}


def test_never_keeps_for_ever(own: Shown) -> None:
    cookie, csrf = session_of(own, OPERATOR)
    form = {"outcome": "failed", "content": "Never", "reason": "r", "csrf": csrf, "once": "1"}

    assert post(own, "/retention", form, cookie=cookie).status == 303
    assert in_force(own) == {("", PolicyOutcome.FAILED.value): (None, None)}
