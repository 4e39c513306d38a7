"""Every page, as people see it: accessible, quiet, and with hostile text shown as text."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.conftest import AXE, PHONE, SHOWN, WIDE, Shown, Tab, tab_of
from tests.support.workers import forget_workers, report
from veltrix.operations.books import overview
from veltrix.store.transactions import transaction

ROOT = Path(__file__).resolve().parents[2]
PAGES: dict[str, Callable[[Shown], str]] = {
    "overview": lambda _: "/",
    "runs": lambda _: "/runs",
    "runs-none": lambda _: "/runs?workflow=nobody",
    "run-failed": lambda s: f"/runs/{s.runs['bad']}",
    "run-open": lambda s: f"/runs/{s.runs['open']}",
    "replay": lambda s: f"/runs/{s.runs['bad']}/replay",
    "edit": lambda s: f"/runs/{s.runs['bad']}/edit",
    "cancel": lambda s: f"/runs/{s.runs['open']}/cancel",
    "bulk-cancel": lambda _: "/bulk/cancel?state=queued",
    "bulk-archive": lambda _: "/bulk/archive?fingerprint=f00d",
    "failures": lambda _: "/failures",
    "patch": lambda _: "/failures/f00d/edit",
    "failure": lambda _: "/failures/f00d",
    "replays": lambda _: "/replays",
    "replay-planned": lambda s: f"/replays/{s.replay}",
    "events": lambda _: "/events",
    "event": lambda s: f"/events/{s.events['bad']}",
    "workflows": lambda _: "/workflows",
    "workflow": lambda _: "/workflows/fulfil",
    "audit": lambda _: "/audit",
    "retention": lambda _: "/retention",
    "retention-tried": lambda _: "/retention?defaults=yes",
    "audit-row": lambda _: "/audit/1",
    "search": lambda _: "/search?q=order-1",
    "flower": lambda _: "/flower",
    "patch-preview": lambda _: "/failures/f00d/edit",
    "patch-refused": lambda _: "/failures/f00d/edit",
    "replay-edit": lambda _: "/failures/f00d/edit",
    "not-found": lambda _: "/nothing",
}
_PATCH = """[
  {"op": "replace", "path": "/order", "value": 7},
  {"op": "remove", "path": "%s"}
]"""


def _preview(page: Page, path: str) -> None:
    page.get_by_label("Patch (JSON)").fill(_PATCH % path)
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible()


def _plan(page: Page) -> None:
    page.get_by_label("Patch (JSON)").fill(_PATCH % "/note")
    page.get_by_label("Why").fill("the shop sent the wrong order")
    page.get_by_role("button", name="Plan the edit of 1 run").click()
    expect(page.get_by_label("Patch")).to_be_visible()


# What is done on a page before it is looked at.
STEPS: dict[str, Callable[[Page], None]] = {
    "patch-preview": lambda page: _preview(page, "/note"),
    "patch-refused": lambda page: _preview(page, "/coupon"),
    "replay-edit": _plan,
}
# Between them every page is seen light and dark, wide and narrow.
SCREENS = [("light", WIDE), ("dark", PHONE)]


@pytest.mark.parametrize(("scheme", "size"), SCREENS, ids=["light-desktop", "dark-phone"])
def test_no_page_has_a_barrier_and_none_is_wider_than_its_screen(
    browser: Browser, shown: Shown, scheme: str, size: tuple[int, int], pytestconfig: pytest.Config
) -> None:
    folder = ROOT / "build" / "console" if pytestconfig.getoption("--pictures") else None
    found: dict[str, list[str]] = {}

    with tab_of(browser, shown, size=size, scheme=scheme) as tab:
        tab.go("/sign-in")
        found["sign-in"] = barriers(tab)
        pictures(tab, folder, f"sign-in-{scheme}")
        tab.sign_in()
        for name, path_of in PAGES.items():
            tab.page.set_viewport_size({"width": size[0], "height": size[1]})
            said = len(tab.said)
            tab.go(path_of(shown))
            if name in STEPS:
                STEPS[name](tab.page)
            if name == "not-found":  # what is not there is the one complaint of a browser
                assert all("404 (Not Found)" in complaint for complaint in tab.said[said:])
                del tab.said[said:]
            found[name] = barriers(tab)
            pictures(tab, folder, f"{name}-{scheme}")
    assert {name: those for name, those in found.items() if those} == {}


def barriers(tab: Tab) -> list[str]:
    """What axe-core finds; and a page that must be scrolled sideways."""
    # A page may load no script but its own: axe comes past that, as a debugger does.
    tab.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = tab.page.evaluate(
        "async () => (await axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'"
        ", 'wcag22aa', 'best-practice']})).violations.map(v => v.id + ': ' +"
        " v.nodes.map(n => n.target + ' ' + (n.any[0] || {}).message).join('; '))"
    )
    width = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return [*found, *([f"{width} px too wide"] if width > 0 else [])]


def pictures(tab: Tab, folder: Path | None, name: str) -> None:
    """Kept where they are looked at, on both screens, when asked for with --pictures."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for kind, (width, height) in (("desktop", WIDE), ("phone", PHONE)):
        tab.page.set_viewport_size({"width": width, "height": height})
        tab.page.screenshot(path=folder / f"{name}-{kind}.png", full_page=True)


def test_on_a_phone_every_place_is_in_sight(browser: Browser, shown: Shown) -> None:
    with tab_of(browser, shown, size=PHONE) as tab:
        tab.sign_in()
        places = [place.bounding_box() for place in tab.page.locator(".places a").all()]

        assert len(places) == 9
        assert [box for box in places if box is None or box["x"] + box["width"] > PHONE[0]] == []


def test_ids_in_a_list_can_be_told_apart(tab: Tab) -> None:
    for path in ("/runs", "/events"):
        tab.go(path)
        ids = tab.page.locator("#list tbody .id").all_inner_texts()

        assert len(set(ids)) == len(ids) >= 3, path


def test_attempts_of_one_moment_are_told_in_their_order(tab: Tab, shown: Shown) -> None:
    tab.go(f"/runs/{shown.runs['bad']}")
    charged = tab.page.locator(".course tbody tr").filter(has_text="charge")

    expect(charged).to_have_count(1)
    expect(charged).to_contain_text("2 attempts")
    kinds = [bar.get_attribute("class") for bar in charged.locator("rect").all()]
    assert kinds == ["bar failed", "bar wait", "bar failed"]
    expect(tab.page.locator(".attempt summary").first).to_contain_text("attempt 2")


def test_the_audit_leads_to_what_was_acted_on(tab: Tab, shown: Shown) -> None:
    tab.go("/audit?action=replay.plan")
    tab.page.locator(f"#list a[href$='/replays/{shown.replay}']").click()

    expect(tab.page.locator("h1")).to_contain_text("planned")


def test_the_first_page_is_live_and_balances(tab: Tab, shown: Shown) -> None:
    tab.go("/")
    expect(tab.page.get_by_text("The books balance")).to_be_visible()
    accepted = tab.page.locator(".line .figure").first
    count = int(accepted.inner_text().split()[0])

    shown.accept(f"live-{count}", {"order": 9})

    expect(accepted).to_have_text(f"{count + 1} accepted")
    expect(tab.page.locator("#chart canvas")).to_be_visible()


def test_open_runs_that_nobody_serves_are_red(tab: Tab, shown: Shown) -> None:
    tab.go("/")
    queues = tab.page.get_by_role("region", name="Queues")
    alarm = tab.page.get_by_text("nobody will do the open runs there")
    expect(queues.locator(".badge.failed", has_text="no worker").first).to_be_visible()
    expect(alarm).to_be_visible()
    report(shown.engine, "1", None, overview_queues(shown))

    expect(alarm).to_be_hidden(timeout=10_000)
    expect(queues.locator(".badge.failed")).to_have_count(0)
    forget_workers(shown.engine, "1")
    tab.go("/workflows")
    expect(tab.page.locator(".badge.failed", has_text="none").first).to_be_visible()


def overview_queues(shown: Shown) -> list[str]:
    """The queues that have open runs."""
    with transaction(shown.engine) as tx:
        return [queue.queue for queue in overview.queues(tx)]


def test_filters_are_in_the_address_and_work_in_place(tab: Tab, shown: Shown) -> None:
    tab.go("/runs")
    tab.page.get_by_label("State").select_option("failed")
    expect(tab.page.locator("#list tbody tr")).to_have_count(1)

    assert tab.page.url.endswith("/runs?state=failed")
    tab.page.reload()
    expect(tab.page.locator("#list tbody tr")).to_have_count(1)
    tab.go("/runs?subject=order-1")
    expect(tab.page.locator("#list tbody tr")).to_have_count(1)
    tab.go("/runs?source=/elsewhere")
    expect(tab.page.get_by_text("No run is like this")).to_be_visible()


def test_a_search_finds_by_id_key_subject_and_source(tab: Tab, shown: Shown) -> None:
    for word in ("order-1", "/shop", "good"):
        tab.go("/")
        tab.page.locator("#find").fill(word)
        tab.page.keyboard.press("Enter")
        expect(tab.page.get_by_role("heading", name="Search")).to_be_visible()
        assert tab.page.locator("main h2").count() >= 1, word
    for word, name in ((shown.runs["bad"], "fulfil"), (shown.events["bad"], "Event")):
        tab.page.locator("#find").fill(word)
        tab.page.keyboard.press("Enter")
        expect(tab.page.locator("h1")).to_contain_text(name)


def test_keys_lead_to_pages_and_may_be_switched_off(tab: Tab) -> None:
    tab.go("/")
    tab.page.keyboard.press("g")
    tab.page.keyboard.press("r")
    expect(tab.page.locator("h1")).to_have_text("Runs")
    tab.page.keyboard.press("/")
    expect(tab.page.locator("#find")).to_be_focused()
    tab.page.keyboard.press("Escape")
    tab.page.locator("h1").click()
    tab.page.keyboard.press("?")
    expect(tab.page.get_by_role("dialog")).to_be_visible()
    tab.page.get_by_label("Single keys do this").uncheck()
    tab.page.get_by_role("button", name="Close").click()
    tab.page.keyboard.press("?")

    expect(tab.page.get_by_role("dialog")).to_be_hidden()


def test_the_theme_is_kept_without_a_flash(tab: Tab) -> None:
    tab.go("/runs")
    button = tab.page.locator("#theme")
    button.click()
    button.click()
    expect(button).to_have_text("Dark")

    tab.page.reload()

    assert 'data-theme="dark"' in tab.page.content()
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"


def test_hostile_text_is_shown_as_text(tab: Tab, shown: Shown) -> None:
    for path in (f"/runs/{shown.runs['bad']}", f"/events/{shown.events['lonely']}", "/events"):
        tab.go(path)

        assert SHOWN in tab.page.locator("main").inner_text(), path
        assert tab.page.locator("main img").count() == 0
        assert tab.page.locator("a[href*='evil.example/']:not([href^='/console/'])").count() == 0


def test_who_signed_in_stands_in_the_audit(tab: Tab) -> None:
    tab.go("/audit?action=session.begin")

    expect(tab.page.locator("#list tbody tr").first).to_contain_text("anna")


def test_a_list_reads_itself_again_when_something_moved(tab: Tab, shown: Shown) -> None:
    tab.go("/runs?workflow=fulfil")
    rows = tab.page.locator("#list tbody tr")
    expect(rows.first).to_be_visible()
    count = rows.count()
    rows.nth(1).locator("a").focus()
    kept = rows.nth(1).locator("a").get_attribute("href")

    shown.accept(f"moved-{count}", {"order": 11})

    expect(rows).to_have_count(count + 1, timeout=20_000)
    assert tab.page.evaluate("document.activeElement.getAttribute('href')") == kept


def test_times_are_relative_and_exact_on_hover_in_the_zone_of_the_browser(
    browser: Browser, shown: Shown
) -> None:
    context = browser.new_context(timezone_id="Asia/Tokyo", locale="en-GB")
    page = context.new_page()
    tab = Tab(page, shown.url)
    tab.sign_in()
    tab.go("/runs")
    accepted = page.locator("#list time.ago").last

    expect(accepted).to_have_text(re.compile(r"^\d+ (s|min|h) ago$"))
    expect(accepted).to_have_attribute("title", re.compile(r"GMT\+9|JST"))
    tab.close()
    context.close()
